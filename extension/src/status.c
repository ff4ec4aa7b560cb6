/*-------------------------------------------------------------------------
 *
 * status.c
 *	  What this server is and has, as JSON for the control socket.
 *
 * Runs in the control worker; takes short spinlocks and quorate_shared->lock.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "replication/walsender.h"
#include "storage/fd.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#define MAX_PEERS	64

typedef struct Receiver
{
	bool		present;		/* has one ever run? */
	WalRcvState state;
	TimeLineID	tli;
	long		ageMs;			/* since the last message, or -1 */
} Receiver;

/* Since a time by QuorumClock(); -1 if there's none */
static long
since_ms(uint64 then)
{
	uint64		now = QuorumClock();

	return then == 0 ? -1 : then >= now ? 0 : (long) ((now - then) / 1000);
}

/*
 * The core calls a receiver streaming before it has connected.  Here it does
 * when it has heard something: the sender repeats the commit LSN all the time.
 */
static void
get_receiver(Receiver *receiver, const QuorumInfo *info)
{
	SpinLockAcquire(&WalRcv->mutex);
	receiver->state = WalRcv->walRcvState;
	receiver->tli = WalRcv->receivedTLI;
	receiver->present = WalRcv->receiveStart != InvalidXLogRecPtr;
	SpinLockRelease(&WalRcv->mutex);
	receiver->ageMs = since_ms(info->heardAt);
	if (receiver->state == WALRCV_STREAMING && receiver->ageMs < 0)
		receiver->state = WALRCV_STARTING;
}

static const char *
receiver_state_name(WalRcvState state)
{
	switch (state)
	{
		case WALRCV_STREAMING:
			return "streaming";
		case WALRCV_STARTING:
		case WALRCV_WAITING:
		case WALRCV_RESTARTING:
			return "connecting";
		default:
			return "stopped";
	}
}

static bool
is_consistent(void)
{
	return !RecoveryInProgress() || HotStandbyActive();
}

const char *
quorate_state_name(const QuorumInfo *info, bool stopping)
{
	if (stopping)
		return "stopping";
	switch (info->state)
	{
		case QUORUM_FENCED:
			return is_consistent() ? "fenced" : "starting";
		case QUORUM_FOLLOWER:
			return "follower";
		case QUORUM_FETCHING:
			return "fetching";
		case QUORUM_CANDIDATE:
			return "candidate";
		case QUORUM_ELECTED:
			return "elected";
		case QUORUM_LEADER:
			return "leader";
	}
	return "unknown";
}

static XLogSegNo
first_segment(void)
{
	DIR		   *dir = AllocateDir(XLOGDIR);
	struct dirent *entry;
	XLogSegNo	first = 0;

	while ((entry = ReadDirExtended(dir, XLOGDIR, LOG)) != NULL)
	{
		TimeLineID	tli;
		XLogSegNo	segno;

		if (!IsXLogFileName(entry->d_name))
			continue;
		XLogFromFileName(entry->d_name, &tli, &segno, wal_segment_size);
		if (first == 0 || segno < first)
			first = segno;
	}
	FreeDir(dir);
	return first;
}

/* From where on others can still get the log from this server */
static XLogRecPtr
oldest_here(void)
{
	static XLogSegNo first = 0;
	XLogRecPtr	oldest;

	if (first == 0)
		first = first_segment();
	XLogSegNoOffsetToRecPtr(Max(first, XLogGetLastRemovedSegno() + 1), 0,
							wal_segment_size, oldest);
	return oldest;
}

/* How much of the log is on this disk, as far as that is known cheaply */
static XLogRecPtr
flushed_here(const QuorumInfo *info, TimeLineID *tli)
{
	XLogRecPtr	received;
	XLogRecPtr	replayed;
	TimeLineID	receivedTLI;
	TimeLineID	replayedTLI;

	if (!RecoveryInProgress())
	{
		*tli = GetWALInsertionTimeLine();
		return GetFlushRecPtr(NULL);
	}
	if (info->logTli != 0)
	{
		*tli = info->logTli;
		return info->logEnd;
	}
	received = GetWalRcvFlushRecPtr(NULL, &receivedTLI);
	replayed = GetXLogReplayRecPtr(&replayedTLI);
	if (received > replayed)
	{
		*tli = receivedTLI;
		return received;
	}
	*tli = replayedTLI;
	return replayed;
}

void
quorate_position(const QuorumInfo *info, TimeLineID *tli, XLogRecPtr *lsn)
{
	*lsn = flushed_here(info, tli);
}

/* ,"key":"0/5000148" or null; the caller has written something before */
void
quorate_json_lsn(StringInfo buf, const char *key, XLogRecPtr lsn)
{
	if (lsn == InvalidXLogRecPtr)
		appendStringInfo(buf, ",\"%s\":null", key);
	else
		appendStringInfo(buf, ",\"%s\":\"%X/%X\"", key, LSN_FORMAT_ARGS(lsn));
}

void
quorate_json_position(StringInfo buf, TimeLineID tli, XLogRecPtr lsn)
{
	if (lsn == InvalidXLogRecPtr)
		appendStringInfoString(buf, ",\"position\":null");
	else
		appendStringInfo(buf, ",\"position\":{\"term\":%u,\"lsn\":\"%X/%X\"}",
						 tli, LSN_FORMAT_ARGS(lsn));
}

void
quorate_json_ruleset(StringInfo buf, const RulesetId *id, const char *text)
{
	appendStringInfo(buf, "{\"version\":%llu,\"term\":%u",
					 (unsigned long long) id->version, id->term);
	quorate_json_lsn(buf, "lsn", id->lsn);
	appendStringInfoString(buf, ",\"text\":");
	escape_json_with_len(buf, text, id->textlen);
	appendStringInfoChar(buf, '}');
}

static void
json_string(StringInfo buf, const char *key, const char *value)
{
	appendStringInfo(buf, ",\"%s\":", key);
	if (value == NULL || value[0] == '\0')
		appendStringInfoString(buf, "null");
	else
		escape_json(buf, value);
}

/* A span of time, or null if it is negative */
static void
json_ms(StringInfo buf, const char *key, long ms)
{
	if (ms < 0)
		appendStringInfo(buf, ",\"%s\":null", key);
	else
		appendStringInfo(buf, ",\"%s\":%ld", key, ms);
}

static void
json_age(StringInfo buf, const char *key, TimestampTz since)
{
	json_ms(buf, key, since == 0 ? -1 :
			TimestampDifferenceMilliseconds(since, GetCurrentTimestamp()));
}

static void
json_rules(StringInfo buf, const QuorumInfo *info)
{
	char	   *rule = NULL;
	char	   *joint[QUORATE_MAX_JOINT];
	int			njoint = -1;

	if (info->state == QUORUM_CANDIDATE || info->state == QUORUM_ELECTED ||
		info->state == QUORUM_LEADER)
		njoint = quorate_rules_text(info->term, &rule, joint);
	json_string(buf, "rule", rule);
	appendStringInfoString(buf, ",\"joint\":[");
	for (int i = 0; i < njoint; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, ',');
		escape_json(buf, joint[i]);
	}
	appendStringInfoChar(buf, ']');
}

static void
json_applied(StringInfo buf)
{
	Ruleset    *applied = quorate_ruleset_copy(&quorate_shared->applied);

	appendStringInfoString(buf, ",\"ruleset\":");
	if (applied == NULL)
		appendStringInfoString(buf, "null");
	else
		quorate_json_ruleset(buf, &applied->id, applied->text);
}

/* The ruleset that this leader is bringing into the log */
static void
json_pending(StringInfo buf, const QuorumInfo *info)
{
	Ruleset    *pending = quorate_shared->stage == PENDING_NONE ||
		quorate_shared->pending.id.term != info->term ? NULL :
		quorate_ruleset_copy(&quorate_shared->pending);

	appendStringInfoString(buf, ",\"pending\":");
	if (pending == NULL)
		appendStringInfoString(buf, "null");
	else
		quorate_json_ruleset(buf, &pending->id, pending->text);
}

static void
json_receiver(StringInfo buf, const QuorumInfo *info)
{
	Receiver	receiver;

	get_receiver(&receiver, info);
	appendStringInfoString(buf, ",\"receiver\":");
	if (!receiver.present)
	{
		appendStringInfoString(buf, "null");
		return;
	}
	appendStringInfo(buf, "{\"state\":\"%s\",\"timeline\":%u",
					 receiver_state_name(receiver.state), receiver.tli);
	json_ms(buf, "lastMessageAgeMs", receiver.ageMs);
	appendStringInfoChar(buf, '}');
}

static void
json_followers(StringInfo buf)
{
	QuorumPeer *peers = palloc(sizeof(QuorumPeer) * MAX_PEERS);
	int			npeers = QuorumGetPeers(peers, MAX_PEERS);

	appendStringInfoString(buf, ",\"followers\":[");
	for (int i = 0; i < npeers; i++)
	{
		QuorumPeer *peer = &peers[i];

		appendStringInfo(buf, "%s{\"member\":%s,\"pid\":%d,\"timeline\":%u",
						 i > 0 ? "," : "", peer->member ? "true" : "false",
						 peer->pid, peer->tli);
		json_string(buf, "node", peer->name);
		quorate_json_lsn(buf, "writtenLsn", peer->write);
		quorate_json_lsn(buf, "flushedLsn", peer->flush);
		quorate_json_lsn(buf, "appliedLsn", peer->apply);
		json_age(buf, "replyAgeMs", peer->replyTime);
		appendStringInfoChar(buf, '}');
	}
	appendStringInfoChar(buf, ']');
	pfree(peers);
}

/* The object "status" of docs/control-socket.md */
void
quorate_status_json(StringInfo buf, bool stopping)
{
	QuorumInfo	info;
	TimeLineID	tli;
	XLogRecPtr	flushed;
	XLogRecPtr	received;
	XLogRecPtr	applied;
	int64		staleness = QuorumStaleness();
	bool		recovery = RecoveryInProgress();
	bool		leads;

	QuorumGetInfo(&info);
	leads = info.state == QUORUM_CANDIDATE || info.state == QUORUM_ELECTED ||
		info.state == QUORUM_LEADER;
	flushed = flushed_here(&info, &tli);
	received = recovery ? Max(GetWalRcvWriteRecPtr(), flushed) : flushed;
	applied = recovery ? GetXLogReplayRecPtr(NULL) : flushed;

	appendStringInfo(buf, "{\"systemIdentifier\":\"" UINT64_FORMAT "\",\"state\":\"%s\"",
					 GetSystemIdentifier(), quorate_state_name(&info, stopping));
	json_string(buf, "node", quorate_node_id);
	appendStringInfo(buf, ",\"term\":%u,\"fenceTerm\":%u,\"pid\":%d",
					 info.term, info.fenceTerm, PostmasterPid);
	appendStringInfo(buf, ",\"inRecovery\":%s,\"consistent\":%s",
					 recovery ? "true" : "false",
					 is_consistent() ? "true" : "false");
	json_ms(buf, "upMs", since_ms(PgStartTime));
	quorate_json_position(buf, tli, flushed);
	/* the leader's may be ahead of what we have, and lie within a record */
	quorate_json_lsn(buf, "commitLsn", Min(info.commitLsn, flushed));
	quorate_json_lsn(buf, "termStartLsn", info.termStart);
	quorate_json_lsn(buf, "oldestLsn", recovery ? InvalidXLogRecPtr : oldest_here());
	appendStringInfo(buf, ",\"leaseMs\":%d", quorate_lease_ms);
	json_ms(buf, "stalenessMs", staleness < 0 ? -1 : (long) (staleness / 1000));
	json_ms(buf, "walWriteAgeMs", since_ms(info.writingSince));
	quorate_json_lsn(buf, "receivedLsn", received);
	quorate_json_lsn(buf, "flushedLsn", flushed);
	quorate_json_lsn(buf, "appliedLsn", applied);
	json_rules(buf, &info);
	json_applied(buf);
	json_pending(buf, &info);
	json_string(buf, "leader", leads ? quorate_node_id : info.leader);
	json_receiver(buf, &info);
	json_followers(buf);
	appendStringInfo(buf, ",\"quiesced\":%s,\"waiting\":%d}",
					 quorate_is_quiesced() ? "true" : "false", info.nwaiting);
}

/*
 * A hash of what a watcher wants to hear of at once: everything but positions
 * and ages.
 */
uint64
quorate_status_signature(bool stopping)
{
	StringInfoData buf;
	QuorumInfo	info;
	Receiver	receiver;
	QuorumPeer *peers = palloc(sizeof(QuorumPeer) * MAX_PEERS);
	int			npeers = QuorumGetPeers(peers, MAX_PEERS);
	uint64		hash;

	QuorumGetInfo(&info);
	get_receiver(&receiver, &info);
	initStringInfo(&buf);
	appendStringInfo(&buf, "%s %u %u %s %d %d %d %s %u",
					 quorate_state_name(&info, stopping), info.term,
					 info.fenceTerm, info.leader,
					 RecoveryInProgress(), is_consistent(),
					 quorate_is_quiesced(),
					 receiver_state_name(receiver.state), receiver.tli);
	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	hash = quorate_shared->applied_count * 1000 +
		quorate_shared->rules.njoint * 10 + (int) quorate_shared->stage;
	LWLockRelease(quorate_shared->lock);
	appendStringInfo(&buf, " %llu", (unsigned long long) hash);
	for (int i = 0; i < npeers; i++)
		appendStringInfo(&buf, " %s:%d:%d:%u", peers[i].name, peers[i].pid,
						 peers[i].member, peers[i].tli);
	hash = DatumGetUInt64(hash_any_extended((unsigned char *) buf.data, buf.len, 0));
	pfree(buf.data);
	pfree(peers);
	return hash;
}
