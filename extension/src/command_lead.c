/*-------------------------------------------------------------------------
 *
 * command_lead.c
 *	  Commands of the control socket: elect, ruleset, quiesce.
 *
 *	  elect		waits until the term record is on this disk
 *	  ruleset	waits until the ruleset record is committed and applied
 *	  quiesce	waits until no admitted transaction is in flight
 *
 *-------------------------------------------------------------------------
 */
#include "operation.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#define CONSISTENCY_TIMEOUT_MS	10000

/* --- elect --- */

/*
 * Has recovery reached a consistent state?  A candidate must not find out
 * after its election that its data directory is no database yet.  Hot standby
 * says so in most cases, but may have to wait for a snapshot in spite of it.
 */
static bool
is_consistent(void)
{
	ControlFileData *control;
	bool		crc_ok;

	if (HotStandbyActive())
		return true;
	LWLockAcquire(ControlFileLock, LW_SHARED);
	control = get_controlfile(DataDir, &crc_ok);
	LWLockRelease(ControlFileLock);
	return crc_ok && !control->backupEndRequired &&
		control->backupStartPoint == InvalidXLogRecPtr &&
		GetXLogReplayRecPtr(NULL) != InvalidXLogRecPtr &&
		GetXLogReplayRecPtr(NULL) >= control->minRecoveryPoint;
}

/*
 * Recovery that is paused replays no tail and ends never: by an administrator,
 * or because a setting is lower than the leader's was.
 */
static bool
refused_while_paused(Operation *op)
{
	if (GetRecoveryPauseState() != RECOVERY_PAUSED)
		return false;
	respond_error(op->client, op->id, "not_consistent",
				  "recovery is paused on this node: by pg_wal_replay_pause(), or because a setting is too low (the server log says which)");
	return true;
}

/*
 * Ask for the election as soon as there is a consistent state to be a leader
 * of.  The rules are installed.  Returns true when it has answered that this
 * will not be.
 */
static bool
begin_election(Operation *op)
{
	if (refused_while_paused(op))
		return true;
	if (!is_consistent())
	{
		if (!TimestampDifferenceExceeds(op->started, GetCurrentTimestamp(),
										CONSISTENCY_TIMEOUT_MS))
			return false;
		respond_error(op->client, op->id, "not_consistent",
					  "this node has not reached a consistent state yet");
		return true;
	}
	op->begun = true;
	forget_scanned_log();
	return !check_result(op->client, op->id, op->term, QuorumElect(op->term));
}

bool
step_elect(Operation *op, const QuorumInfo *info)
{
	if (info->term == op->term &&
		(info->state == QUORUM_ELECTED || info->state == QUORUM_LEADER))
	{
		respond_position(op->client, op->id, op->term, info->termStart);
		return true;
	}
	if (info->term == op->term && info->state == QUORUM_CANDIDATE)
	{
		op->begun = true;
		return refused_while_paused(op);
	}
	if (!op->begun)
		return begin_election(op);
	respond_error(op->client, op->id, "internal",
				  "could not begin term %u; the server log says why", op->term);
	return true;
}

/* Is this node candidate, elected or leader of the term already? */
static bool
already_elected(Request *request, uint32 term, const char *rule_text)
{
	QuorumInfo	info;
	char	   *rule;
	char	   *joint[QUORATE_MAX_JOINT];

	QuorumGetInfo(&info);
	if (info.term != term ||
		(info.state != QUORUM_CANDIDATE && info.state != QUORUM_ELECTED &&
		 info.state != QUORUM_LEADER))
		return false;
	if (quorate_rules_text(term, &rule, joint) < 0 || strcmp(rule, rule_text) != 0)
		respond_error(request->client, request->id, "wrong_state",
					  "this node was already told to begin term %u, under another rule", term);
	else
		start_operation(request, OP_ELECT, term, 0);
	return true;
}

static int
joint_field(Jsonb *json, Rule **joint)
{
	JsonbValue *value = field(json, "joint");
	JsonbContainer *array;
	int			n;

	if (value == NULL)
		return 0;
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		bad_request("\"joint\" must be an array of rules");
	array = value->val.binary.data;
	n = JsonContainerSize(array);
	if (n > QUORATE_MAX_JOINT)
		bad_request("\"joint\" has more than %d rules", QUORATE_MAX_JOINT);
	for (int i = 0; i < n; i++)
		joint[i] = parse_rule(value_string(getIthJsonbValueFromContainer(array, i), "joint"),
							  "joint");
	return n;
}

void
execute_elect(Request *request)
{
	uint32		term = term_field(request->json);
	char	   *rule_text = string_field(request->json, "rule");
	Rule	   *rule = parse_rule(rule_text, "rule");
	Rule	   *joint[QUORATE_MAX_JOINT];
	int			njoint = joint_field(request->json, joint);
	Jsonb	   *ruleset = object_field(request->json, "ruleset");
	uint64		version = version_field(ruleset);
	char	   *text = ruleset_text_field(ruleset);
	QuorumInfo	info;

	if (already_elected(request, term, rule_text))
		return;

	/* A term has one leader; to have copied a log under it doesn't matter. */
	QuorumGetInfo(&info);
	if (info.state == QUORUM_FOLLOWER && info.term == term)
	{
		respond_error(request->client, request->id, "wrong_state",
					  "this node follows \"%s\" in term %u", info.leader, term);
		return;
	}
	if (!check_result(request->client, request->id, term, quorate_fence(term)))
		return;
	if (!RecoveryInProgress())
	{
		(void) check_result(request->client, request->id, term, QUORUM_RESTART_REQUIRED);
		return;
	}

	/*
	 * From here on nothing is published under an older term, so the rules may
	 * be replaced; and they must be there before the election.
	 */
	quorate_install_rules(term, rule, njoint, joint);
	ruleset_set_pending(term, version, rule_text, text);
	ereport(LOG, (errmsg("begins term %u under rule %s", term, rule_text)));
	start_operation(request, OP_ELECT, term, 0);
}

/* --- ruleset --- */

bool
step_ruleset(Operation *op, const QuorumInfo *info)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	if (quorate_shared->applied.id.term == op->term &&
		quorate_shared->applied.id.version == op->version)
		lsn = quorate_shared->applied.id.lsn;
	LWLockRelease(quorate_shared->lock);
	if (lsn == InvalidXLogRecPtr)
		return false;
	respond_lsn(op->client, op->id, lsn);
	return true;
}

void
execute_ruleset(Request *request)
{
	uint32		term = term_field(request->json);
	uint64		version = version_field(request->json);
	char	   *rule_text = string_field(request->json, "rule");
	Rule	   *rule = parse_rule(rule_text, "rule");
	char	   *text = ruleset_text_field(request->json);
	uint64		timeout = number_field_or(request->json, "timeoutMs", 1, MAX_TIMEOUT_MS, 0);
	RulesetId  *applied = &quorate_shared->applied.id;
	Ruleset    *pending;
	XLogRecPtr	lsn;
	QuorumInfo	info;

	QuorumGetInfo(&info);
	if (term < info.fenceTerm)
	{
		respond_stale(request->client, request->id, term);
		return;
	}
	if (info.state != QUORUM_LEADER || info.term != term || RecoveryInProgress())
	{
		respond_error(request->client, request->id, "wrong_state",
					  "this node does not lead term %u", term);
		return;
	}

	/* The same again: wait for it. */
	pending = quorate_shared->stage == PENDING_NONE ? NULL :
		quorate_ruleset_copy(&quorate_shared->pending);
	if ((pending != NULL && pending->id.term == term && pending->id.version == version &&
		 strcmp(pending->text, text) == 0 && strcmp(pending->rule, rule_text) == 0) ||
		(pending == NULL && applied->term == term && applied->version == version &&
		 strcmp(quorate_shared->applied.text, text) == 0))
	{
		start_operation(request, OP_RULESET, term, timeout)->version = version;
		return;
	}
	if (pending != NULL)
	{
		respond_error(request->client, request->id, "wrong_state",
					  "ruleset %llu of term %u is not durable yet",
					  (unsigned long long) pending->id.version, pending->id.term);
		return;
	}
	if (version <= applied->version)
		bad_request("version %llu does not follow version %llu, which is applied",
					(unsigned long long) version, (unsigned long long) applied->version);

	/* First the joint rule, then the record: from its LSN on both count. */
	quorate_add_rule(rule);
	ruleset_set_pending(term, version, rule_text, text);
	ruleset_step();
	lsn = quorate_shared->pending.id.lsn;
	ereport(LOG, (errmsg("wrote ruleset %llu of term %u at %X/%X, rule %s",
						 (unsigned long long) version, term, LSN_FORMAT_ARGS(lsn), rule_text)));
	start_operation(request, OP_RULESET, term, timeout)->version = version;
}

/* --- quiesce --- */

bool
step_quiesce(Operation *op, const QuorumInfo *info)
{
	if (info->state != QUORUM_LEADER)
	{
		respond_error(op->client, op->id, "superseded", "this node does not lead any more");
		return true;
	}
	if (quorate_in_flight() > 0)
		return false;
	respond_lsn(op->client, op->id, GetFlushRecPtr(NULL));
	return true;
}

void
execute_quiesce(Request *request)
{
	JsonbValue *on = field(request->json, "on");
	uint64		timeout;
	QuorumInfo	info;

	if (on == NULL || on->type != jbvBool)
		bad_request("\"on\" must be true or false");
	timeout = number_field_or(request->json, "timeoutMs", 1, MAX_TIMEOUT_MS, 0);
	QuorumGetInfo(&info);

	if (!on->val.boolean)
	{
		quorate_quiesce(false, 0);
		request->client->quiesces = false;
		ereport(LOG, (errmsg("admits transactions")));
		if (RecoveryInProgress())
			respond_ok(request->client, request->id, ",\"lsn\":null");
		else
			respond_lsn(request->client, request->id, GetFlushRecPtr(NULL));
		return;
	}
	if (info.state != QUORUM_LEADER)
	{
		respond_error(request->client, request->id, "wrong_state",
					  "only a leader can be quiesced");
		return;
	}
	quorate_quiesce(true, (int) timeout);
	request->client->quiesces = true;
	ereport(LOG, (errmsg("admits no new transactions")));
	start_operation(request, OP_QUIESCE, info.term, timeout);
}
