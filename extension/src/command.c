/*-------------------------------------------------------------------------
 *
 * command.c
 *	  The commands of the control socket (docs/control-socket.md).
 *
 * A request is parsed and executed in its own memory context; what is wrong
 * with it ends as an error response and never ends the worker.  A command
 * that can't be answered at once becomes an Operation, which command_step()
 * looks at each time the loop of control.c turns until it can be answered:
 *
 *	  fence		until no walreceiver runs; then finds the end of the log
 *	  fetch		until the wanted position is on this disk
 *	  elect		until the term record is on this disk
 *	  ruleset	until the ruleset record is committed and applied
 *	  quiesce	until no admitted transaction is in flight
 *
 * Each is given up ("superseded") when a higher term arrives, and forgotten
 * when its client goes.  What it caused goes on: a forgotten ruleset is
 * committed all the same.
 *
 *-------------------------------------------------------------------------
 */
#include "request.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MIN_INTERVAL_MS		10
#define CONSISTENCY_TIMEOUT_MS	10000
#define MAX_TIMEOUT_MS		(24 * 3600 * 1000)
#define FAST_POLL_MS		1
#define SLOW_POLL_MS		20
#define FAST_POLL_FOR_MS	1000

typedef enum OpKind
{
	OP_FENCE,
	OP_FETCH,
	OP_ELECT,
	OP_RULESET,
	OP_QUIESCE,
} OpKind;

typedef struct Operation
{
	dlist_node	node;
	Client	   *client;
	char	   *id;				/* JSON text */
	OpKind		kind;
	uint32		term;
	TimeLineID	target_tli;		/* fetch */
	XLogRecPtr	target;			/* fetch */
	uint64		version;		/* ruleset */
	bool		begun;			/* elect: the core knows of it */
	TimestampTz started;
	TimestampTz deadline;		/* 0: none */
} Operation;

static dlist_head operations = DLIST_STATIC_INIT(operations);

/* ------------------------------------------------------------------------
 * Operations
 * ------------------------------------------------------------------------
 */

static Operation *
start_operation(Request *request, OpKind kind, uint32 term, uint64 timeout_ms)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Operation  *op = palloc0(sizeof(Operation));

	op->client = request->client;
	op->id = pstrdup(request->id);
	op->kind = kind;
	op->term = term;
	op->started = GetCurrentTimestamp();
	if (timeout_ms > 0)
		op->deadline = TimestampTzPlusMilliseconds(op->started, timeout_ms);
	op->client->nops++;
	dlist_push_tail(&operations, &op->node);
	MemoryContextSwitchTo(old);
	return op;
}

static void
end_operation(Operation *op)
{
	dlist_delete(&op->node);
	op->client->nops--;
	pfree(op->id);
	pfree(op);
}

void
command_forget_client(Client *client)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &operations)
	{
		Operation  *op = dlist_container(Operation, node, iter.cur);

		if (op->client == client)
			end_operation(op);
	}
	if (client->quiesces)
	{
		client->quiesces = false;
		quorate_quiesce(false, 0);
		ereport(LOG, (errmsg("quiesce ended with the connection that asked for it")));
	}
}

/* How soon must somebody look at the operations again?  -1: no need */
long
command_poll_ms(void)
{
	TimestampTz now;
	TimestampTz since;
	bool		in_progress = ruleset_in_progress(&since);
	long		poll;
	dlist_iter	iter;

	if (dlist_is_empty(&operations) && !in_progress)
		return -1;

	poll = SLOW_POLL_MS;
	now = GetCurrentTimestamp();
	if (in_progress && !TimestampDifferenceExceeds(since, now, FAST_POLL_FOR_MS))
		poll = FAST_POLL_MS;
	dlist_foreach(iter, &operations)
	{
		Operation  *op = dlist_container(Operation, node, iter.cur);

		if (!TimestampDifferenceExceeds(op->started, now, FAST_POLL_FOR_MS))
			poll = FAST_POLL_MS;
	}
	return poll;
}

/* --- fence --- */

typedef struct TailRulesets
{
	StringInfoData json;
	int			n;
} TailRulesets;

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

static bool
step_fence(Operation *op, const QuorumInfo *info)
{
	TailRulesets tail = {.n = 0};
	TimeLineID	tli;
	XLogRecPtr	last;
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

	/* Nothing can be said before recovery knows where it begins. */
	if (WalRcvRunning() || GetXLogReplayRecPtr(NULL) == InvalidXLogRecPtr)
		return false;

	initStringInfo(&tail.json);
	QuorumFindLogEnd(&tli, &last, &end, collect_ruleset, &tail);
	QuorumSetLogEnd(tli, end);
	answer_fence(op, tli, end, tail.json.data);
	return true;
}

static void
execute_fence(Request *request)
{
	uint32		term = term_field(request->json);

	if (!check_result(request->client, request->id, term, QuorumFence(term)))
		return;
	ereport(LOG, (errmsg("fenced at term %u", term)));
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
	QuorumResult result = QuorumFence(term);

	if (result == QUORUM_OK)
		result = QuorumFollow(term, from, conninfo, fetch);
	return check_result(request->client, request->id, term, result);
}

static void
execute_follow(Request *request)
{
	uint32		term = term_field(request->json);
	char	   *leader = node_field(request->json, "leader");
	char	   *conninfo = conninfo_field(request->json);

	if (grant_stream(request, term, leader, conninfo, 0))
	{
		ereport(LOG, (errmsg("follows \"%s\" in term %u", leader, term)));
		respond_status(request->client, request->id);
	}
}

static bool
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

static void
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
 * Ask for the election as soon as there is a consistent state to be a leader
 * of.  The rules are installed.  Returns true when it has answered that this
 * will not be.
 */
static bool
begin_election(Operation *op)
{
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
	return !check_result(op->client, op->id, op->term, QuorumElect(op->term));
}

static bool
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
		return false;
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

static void
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

	if (already_elected(request, term, rule_text))
		return;
	if (!check_result(request->client, request->id, term, QuorumFence(term)))
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

static bool
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

static void
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

static bool
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

static void
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

/* --- all of them --- */

/* Returns true when it has answered. */
static bool
command_step(Operation *op)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	if (info.fenceTerm > op->term)
	{
		respond_error(op->client, op->id, "superseded",
					  "term %u arrived while this was waiting under term %u",
					  info.fenceTerm, op->term);
		return true;
	}
	switch (op->kind)
	{
		case OP_FENCE:
			if (step_fence(op, &info))
				return true;
			break;
		case OP_FETCH:
			if (step_fetch(op, &info))
				return true;
			break;
		case OP_ELECT:
			if (step_elect(op, &info))
				return true;
			break;
		case OP_RULESET:
			if (step_ruleset(op, &info))
				return true;
			break;
		case OP_QUIESCE:
			if (step_quiesce(op, &info))
				return true;
			break;
	}
	if (op->deadline != 0 && GetCurrentTimestamp() >= op->deadline)
	{
		if (op->kind == OP_QUIESCE)
		{
			int			n = quorate_in_flight();

			quorate_quiesce(false, 0);
			op->client->quiesces = false;
			respond_error(op->client, op->id, "timeout",
						  "%d transactions were still in flight; new ones are admitted again", n);
		}
		else
			respond_error(op->client, op->id, "timeout", "not done in time; it goes on");
		return true;
	}
	return false;
}

/* An error while a request was looked at: what went wrong, in palloc'd text */
static char *
recover_from_error(MemoryContext context, bool *is_bad_request, bool log)
{
	ErrorData  *error;
	char	   *message;
	int			class;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	class = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	*is_bad_request = class == ERRCODE_DATA_EXCEPTION ||
		error->sqlerrcode == ERRCODE_PROTOCOL_VIOLATION ||
		error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER ||
		error->sqlerrcode == ERRCODE_STATEMENT_TOO_COMPLEX ||
		error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	if (log || !*is_bad_request)
		EmitErrorReport();
	FlushErrorState();
	LWLockReleaseAll();
	message = error->detail ? psprintf("%s: %s", error->message, error->detail) :
		pstrdup(error->message);
	return message;
}

void
command_step_all(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "quorate operations",
												  ALLOCSET_DEFAULT_SIZES);
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &operations)
	{
		Operation  *op = dlist_container(Operation, node, iter.cur);
		volatile bool done = false;

		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			done = command_step(op);
		}
		PG_CATCH();
		{
			bool		is_bad_request;
			char	   *message = recover_from_error(context, &is_bad_request, true);

			respond_error(op->client, op->id, "internal", "%s", message);
			done = true;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(TopMemoryContext);
		if (done)
			end_operation(op);
	}
	MemoryContextDelete(context);
}

static void
execute_watch(Request *request)
{
	request->client->interval_ms =
		number_field_or(request->json, "intervalMs", MIN_INTERVAL_MS, MAX_TIMEOUT_MS, 1000);
	request->client->watching = true;
	request->client->last_event = 0;
	respond_ok(request->client, request->id, "");
}

static void
execute_status(Request *request)
{
	respond_status(request->client, request->id);
}

static const struct
{
	const char *name;
	void		(*execute) (Request *request);
}			commands[] =
{
	{"status", execute_status},
	{"watch", execute_watch},
	{"fence", execute_fence},
	{"follow", execute_follow},
	{"fetch", execute_fetch},
	{"elect", execute_elect},
	{"ruleset", execute_ruleset},
	{"quiesce", execute_quiesce},
};

/* The id of a request as JSON text, "null" if there's none that can be read. */
static void
parse_request(Request *request, char *line, int len)
{
	JsonbValue *id;

	if (len > CONTROL_MAX_LINE)
		bad_request("a request has at most %d bytes", CONTROL_MAX_LINE);
	if (memchr(line, '\0', len) != NULL || !pg_verify_mbstr(PG_UTF8, line, len, true))
		bad_request("a request must be UTF-8 text");

	request->json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(line)));
	if (!JB_ROOT_IS_OBJECT(request->json))
		bad_request("a request must be a JSON object");
	id = field(request->json, "id");
	if (id == NULL || (id->type != jbvNumeric && id->type != jbvString))
		bad_request("\"id\" must be a number or a string");
	request->id = JsonbToCString(NULL, &JsonbValueToJsonb(id)->root, 0);
	if (strlen(request->id) > 256)
	{
		request->id = "null";
		bad_request("\"id\" is too long");
	}
}

static void
dispatch(Request *request)
{
	char	   *name = string_field(request->json, "cmd");

	if (request->client->nops >= CONTROL_MAX_OPS)
		bad_request("more than %d requests in flight", CONTROL_MAX_OPS);
	for (int i = 0; i < lengthof(commands); i++)
	{
		if (strcmp(commands[i].name, name) == 0)
		{
			commands[i].execute(request);
			return;
		}
	}
	bad_request("unknown command");
}

/* Execute one line, which is zero-terminated. */
void
command_execute(Client *client, char *line, int len)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "quorate request",
												  ALLOCSET_DEFAULT_SIZES);
	Request    *request;

	MemoryContextSwitchTo(context);
	request = palloc0(sizeof(Request));
	request->client = client;
	request->id = "null";

	PG_TRY();
	{
		parse_request(request, line, len);
		dispatch(request);
	}
	PG_CATCH();
	{
		bool		is_bad_request;
		char	   *message = recover_from_error(context, &is_bad_request, false);

		respond_error(client, request->id, is_bad_request ? "bad_request" : "internal",
					  "%s", message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}
