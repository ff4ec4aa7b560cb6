/*-------------------------------------------------------------------------
 *
 * command_stream.c
 *	  Commands of the control socket: fence, follow, fetch.
 *
 *	  fence		waits until no walreceiver runs, then finds the end of the log
 *	  fetch		waits until the wanted position is on this disk
 *
 *-------------------------------------------------------------------------
 */
#include "operation.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "replication/walreceiver.h"
#include "utils/memutils.h"

/* --- fence --- */

typedef struct TailRulesets
{
	StringInfoData json;
	int			n;
} TailRulesets;

/*
 * What is known of the end of the log.  A log of which much isn't replayed
 * takes long to read, and without a grant nothing is added to it: so it is
 * read once, as soon as it stands still, in portions between which others are
 * answered, and not only when somebody waits for it.
 */
static struct
{
	QuorumLogScan *scan;		/* under way */
	char	   *failure;		/* try again when somebody else asks */
	TimeLineID	tli;
	XLogRecPtr	end;
	char	   *tail;			/* NULL: nothing is known */
}			scanned;

/* So much is read before others have their turn: takes some milliseconds. */
#define SCAN_PORTION	(8 * 1024 * 1024)

static void
collect_ruleset(XLogReaderState *record, TimeLineID tli, void *arg)
{
	TailRulesets *tail = arg;
	RulesetId	id;
	const char *rule;
	const char *text;

	if (!quorate_ruleset_decode(record, &id, &rule, &text) ||
		!quorate_ruleset_is_news(&id))
		return;
	if (tail->n++ > 0)
		appendStringInfoChar(&tail->json, ',');
	quorate_json_ruleset(&tail->json, &id, text);
}

static void
answer_fence(Operation *op, TimeLineID tli, XLogRecPtr lsn, const char *tail)
{
	StringInfoData result;
	QuorumInfo	info;
	Ruleset    *applied;

	/*
	 * Read the applied ruleset after the tail: a record that is replayed in
	 * between is reported twice rather than not at all.
	 */
	applied = quorate_ruleset_copy(&quorate_shared->applied);
	QuorumGetInfo(&info);
	initStringInfo(&result);
	quorate_json_position(&result, tli, lsn);
	/* it counts bytes: it may lie in a record whose end isn't here */
	quorate_json_lsn(&result, "commitLsn", Min(info.commitLsn, lsn));
	appendStringInfoString(&result, ",\"ruleset\":");
	if (applied == NULL)
		appendStringInfoString(&result, "null");
	else
		quorate_json_ruleset(&result, &applied->id, applied->text);
	appendStringInfo(&result, ",\"tailRulesets\":[%s],\"status\":", tail);
	quorate_status_json(&result, control_is_stopping());
	respond_ok(op->client, op->id, result.data);
}

/* The ruleset record that this leader has written and not seen committed */
static char *
written_ruleset(void)
{
	StringInfoData json;
	Ruleset    *pending = NULL;

	initStringInfo(&json);
	if (quorate_shared->stage == PENDING_WRITTEN)
		pending = quorate_ruleset_copy(&quorate_shared->pending);
	if (pending != NULL)
		quorate_json_ruleset(&json, &pending->id, pending->text);
	return json.data;
}

/*
 * Nothing can be said before it is clear where recovery begins: where
 * pg_control says, unless a backup is being restored.  We need not wait until
 * recovery has begun: after a crash it brings the whole data directory to disk
 * first, which may take minutes.
 */
static bool
redo_is_known(void)
{
	struct stat st;

	return GetXLogReplayRecPtr(NULL) != InvalidXLogRecPtr ||
		(stat(BACKUP_LABEL_FILE, &st) != 0 && errno == ENOENT);
}

static bool
log_stands_still(void)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	return info.state == QUORUM_FENCED && RecoveryInProgress() &&
		!WalRcvRunning() && redo_is_known();
}

static void
scan_portion(void)
{
	TailRulesets tail = {.n = 0};
	XLogRecPtr	last;
	MemoryContext context;

	if (scanned.scan == NULL)
	{
		context = MemoryContextSwitchTo(TopMemoryContext);
		scanned.scan = QuorumBeginScan(RM_QUORATE_ID);
		MemoryContextSwitchTo(context);
	}
	if (!QuorumScanLog(scanned.scan, SCAN_PORTION))
		return;
	QuorumScanResult(scanned.scan, &scanned.tli, &last, &scanned.end);
	initStringInfo(&tail.json);
	QuorumScanRecords(scanned.scan, collect_ruleset, &tail);
	QuorumEndScan(scanned.scan);
	scanned.scan = NULL;
	scanned.tail = MemoryContextStrdup(TopMemoryContext, tail.json.data);
	QuorumSetLogEnd(scanned.tli, scanned.end);
}

/* Is there a log to be read?  Then there's no time to sleep. */
bool
log_scan_wanted(void)
{
	return scanned.tail == NULL && scanned.failure == NULL && log_stands_still();
}

void
log_scan_step(void)
{
	MemoryContext context;

	if (!log_scan_wanted())
		return;
	context = AllocSetContextCreate(TopMemoryContext, "quorate log scan",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		scan_portion();
	}
	PG_CATCH();
	{
		bool		is_bad_request;
		char	   *message = recover_from_error(context, &is_bad_request, true);

		forget_scanned_log();
		scanned.failure = MemoryContextStrdup(TopMemoryContext, message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}

bool
step_fence(Operation *op, const QuorumInfo *info)
{
	TimeLineID	tli;
	XLogRecPtr	end;

	/* A grant of this very term stays, and so the log may still grow. */
	if (info->term == op->term && info->state != QUORUM_FENCED)
	{
		quorate_position(info, &tli, &end);
		answer_fence(op, tli, end, written_ruleset());
		return true;
	}

	if (!RecoveryInProgress())
	{
		answer_fence(op, GetWALInsertionTimeLine(), GetFlushRecPtr(NULL),
					 written_ruleset());
		return true;
	}

	if (!log_stands_still())
		return false;
	if (scanned.failure != NULL)
		ereport(ERROR, (errmsg("could not find the end of the log"),
						errdetail("%s", scanned.failure)));
	if (scanned.tail == NULL)
		return false;
	QuorumSetLogEnd(scanned.tli, scanned.end);
	answer_fence(op, scanned.tli, scanned.end, scanned.tail);
	return true;
}

void
forget_scanned_log(void)
{
	if (scanned.scan != NULL)
		QuorumEndScan(scanned.scan);
	scanned.scan = NULL;
	if (scanned.failure != NULL)
		pfree(scanned.failure);
	scanned.failure = NULL;
	if (scanned.tail != NULL)
		pfree(scanned.tail);
	scanned.tail = NULL;
}

void
execute_fence(Request *request)
{
	uint32		term = term_field(request->json);

	if (!check_result(request->client, request->id, term, quorate_fence(term)))
		return;
	ereport(LOG, (errmsg("fenced at term %u", term)));
	if (scanned.failure != NULL)
		forget_scanned_log();
	start_operation(request, OP_FENCE, term, 0);
}

/* --- follow, fetch --- */

static char *
conninfo_field(Jsonb *json)
{
	char	   *conninfo = string_field(json, "conninfo");

	if (strlen(conninfo) >= QUORUM_CONNINFO_LEN)
		bad_request("\"conninfo\" has more than %d bytes", QUORUM_CONNINFO_LEN - 1);
	return conninfo;
}

/* Withdraw what a lower term granted, then grant. */
static bool
grant_stream(Request *request, uint32 term, const char *from,
			 const char *conninfo, TimeLineID fetch)
{
	QuorumResult result = quorate_fence(term);

	forget_scanned_log();
	if (result == QUORUM_OK)
		result = QuorumFollow(term, from, conninfo, fetch);
	return check_result(request->client, request->id, term, result);
}

void
execute_follow(Request *request)
{
	uint32		term = term_field(request->json);
	char	   *leader = node_field(request->json, "leader");
	char	   *conninfo = conninfo_field(request->json);
	QuorumInfo	info;

	/* A term has one leader. */
	QuorumGetInfo(&info);
	if (info.state == QUORUM_FOLLOWER && info.term == term &&
		strcmp(info.leader, leader) != 0)
	{
		respond_error(request->client, request->id, "wrong_state",
					  "this node already follows \"%s\" in term %u", info.leader, term);
		return;
	}

	if (grant_stream(request, term, leader, conninfo, 0))
	{
		ereport(LOG, (errmsg("follows \"%s\" in term %u", leader, term)));
		respond_status(request->client, request->id);
	}
}

bool
step_fetch(Operation *op, const QuorumInfo *info)
{
	TimeLineID	tli;
	XLogRecPtr	end;

	end = GetWalRcvFlushRecPtr(NULL, &tli);
	if (tli == op->target_tli && end >= op->target)
	{
		respond_position(op->client, op->id, tli, end);
		return true;
	}
	if (info->state != QUORUM_FETCHING || info->term != op->term)
	{
		respond_error(op->client, op->id, "superseded",
					  "another command ended the copying of the log");
		return true;
	}
	return false;
}

void
execute_fetch(Request *request)
{
	uint32		term = term_field(request->json);
	char	   *from = node_field(request->json, "from");
	char	   *conninfo = conninfo_field(request->json);
	Jsonb	   *target = object_field(request->json, "target");
	TimeLineID	tli = term_field(target);
	XLogRecPtr	lsn = lsn_field(target, "lsn");
	uint64		timeout = number_field_or(request->json, "timeoutMs", 1, MAX_TIMEOUT_MS, 0);
	QuorumInfo	info;
	Operation  *op;

	QuorumGetInfo(&info);
	if (info.fenceTerm == term && info.state == QUORUM_FENCED &&
		info.logTli == tli && info.logEnd >= lsn)
	{
		/* It's here already, as the last fence has found. */
		respond_position(request->client, request->id, info.logTli, info.logEnd);
		return;
	}
	if (!grant_stream(request, term, from, conninfo, tli))
		return;
	ereport(LOG, (errmsg("fetches the log of \"%s\" up to %X/%X on timeline %u in term %u",
						 from, LSN_FORMAT_ARGS(lsn), tli, term)));
	op = start_operation(request, OP_FETCH, term, timeout);
	op->target_tli = tli;
	op->target = lsn;
}
