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
 * ruleset_step() writes the ruleset record of a term as soon as this server
 * leads, and applies a ruleset when its record is committed.
 *
 *-------------------------------------------------------------------------
 */
#include "control.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "storage/proc.h"
#include "storage/sinvaladt.h"
#include "storage/standby.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#define MIN_INTERVAL_MS		10
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
	TimestampTz started;
	TimestampTz deadline;		/* 0: none */
} Operation;

static dlist_head operations = DLIST_STATIC_INIT(operations);

/* Is there a ruleset record for whose sake we hold up checkpoints? */
static bool holding_checkpoints = false;
static TimestampTz holding_since = 0;

/* A request while it is executed; all of it lives in the request's context. */
typedef struct Request
{
	Client	   *client;
	Jsonb	   *json;
	char	   *id;				/* JSON text */
} Request;

/* ------------------------------------------------------------------------
 * Responses
 * ------------------------------------------------------------------------
 */

static void respond_error(Client *client, const char *id, const char *code,
						  const char *fmt,...) pg_attribute_printf(4, 5);

static void
respond_error(Client *client, const char *id, const char *code, const char *fmt,...)
{
	StringInfoData line;
	char		message[512];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	/* don't cut a character in two */
	message[pg_encoding_mbcliplen(PG_UTF8, message, strlen(message), sizeof(message) - 1)] = '\0';

	initStringInfo(&line);
	appendStringInfo(&line, "{\"id\":%s,\"ok\":false,\"code\":\"%s\",\"message\":", id, code);
	escape_json(&line, message);
	appendStringInfoChar(&line, '}');
	client_send_line(client, &line);
	pfree(line.data);
}

/* "result" is empty or begins with a comma. */
static void
respond_ok(Client *client, const char *id, const char *result)
{
	StringInfoData line;

	initStringInfo(&line);
	appendStringInfo(&line, "{\"id\":%s,\"ok\":true", id);
	appendStringInfoString(&line, result);
	appendStringInfoChar(&line, '}');
	client_send_line(client, &line);
	pfree(line.data);
}

static void
respond_lsn(Client *client, const char *id, XLogRecPtr lsn)
{
	StringInfoData result;

	initStringInfo(&result);
	quorate_json_lsn(&result, "lsn", lsn);
	respond_ok(client, id, result.data);
	pfree(result.data);
}

static void
respond_position(Client *client, const char *id, TimeLineID tli, XLogRecPtr lsn)
{
	StringInfoData result;

	initStringInfo(&result);
	quorate_json_position(&result, tli, lsn);
	respond_ok(client, id, result.data);
	pfree(result.data);
}

static void
respond_status(Client *client, const char *id)
{
	StringInfoData result;

	initStringInfo(&result);
	appendStringInfoString(&result, ",\"status\":");
	quorate_status_json(&result, control_is_stopping());
	respond_ok(client, id, result.data);
	pfree(result.data);
}

static void
respond_stale(Client *client, const char *id, uint32 term)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	respond_error(client, id, "stale_term",
				  "term %u is below term %u, which this node already obeys",
				  term, info.fenceTerm);
}

/* Returns false after it has answered why not. */
static bool
check_result(Client *client, const char *id, uint32 term, QuorumResult result)
{
	QuorumInfo	info;

	switch (result)
	{
		case QUORUM_OK:
			return true;
		case QUORUM_STALE_TERM:
			respond_stale(client, id, term);
			return false;
		case QUORUM_WRONG_STATE:
			QuorumGetInfo(&info);
			respond_error(client, id, "wrong_state",
						  "not possible while this node is %s in term %u",
						  quorate_state_name(&info, control_is_stopping()), info.term);
			return false;
		case QUORUM_RESTART_REQUIRED:
			respond_error(client, id, "restart_required",
						  "this node has led a term: it must be restarted as a follower first");
			return false;
	}
	respond_error(client, id, "internal", "unknown result %d", (int) result);
	return false;
}

/* ------------------------------------------------------------------------
 * Fields of a request.  Whatever is wrong with them is an error, which
 * command_execute() turns into "bad_request".
 * ------------------------------------------------------------------------
 */

pg_noreturn static void bad_request(const char *fmt,...) pg_attribute_printf(1, 2);

static void
bad_request(const char *fmt,...)
{
	char		message[512];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg_internal("%s", message)));
}

static JsonbValue *
field(Jsonb *json, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&json->root, key, strlen(key), NULL);

	return value != NULL && value->type == jbvNull ? NULL : value;
}

static char *
value_string(JsonbValue *value, const char *key)
{
	if (value == NULL || value->type != jbvString)
		bad_request("\"%s\" must be a string", key);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static char *
string_field(Jsonb *json, const char *key)
{
	return value_string(field(json, key), key);
}

/* A whole number from "min" to "max"; "min" may not be negative. */
static uint64
number_field(Jsonb *json, const char *key, uint64 min, uint64 max)
{
	JsonbValue *value = field(json, key);
	char	   *text;
	uint64		number;

	if (value == NULL || value->type != jbvNumeric)
		bad_request("\"%s\" must be a number", key);
	text = DatumGetCString(DirectFunctionCall1(numeric_out,
											   NumericGetDatum(value->val.numeric)));
	errno = 0;
	number = strtou64(text, NULL, 10);
	if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0' || errno != 0 ||
		number < min || number > max)
		bad_request("\"%s\" must be a whole number from %llu to %llu", key,
					(unsigned long long) min, (unsigned long long) max);
	return number;
}

static uint64
number_field_or(Jsonb *json, const char *key, uint64 min, uint64 max, uint64 otherwise)
{
	return field(json, key) == NULL ? otherwise : number_field(json, key, min, max);
}

static uint32
term_field(Jsonb *json)
{
	return number_field(json, "term", 1, PG_UINT32_MAX);
}

static uint64
version_field(Jsonb *json)
{
	return number_field(json, "version", 1, PG_INT64_MAX);
}

static XLogRecPtr
lsn_field(Jsonb *json, const char *key)
{
	char	   *text = string_field(json, key);
	bool		error = false;
	XLogRecPtr	lsn = pg_lsn_in_internal(text, &error);

	if (error || lsn == InvalidXLogRecPtr)
		bad_request("\"%s\" must be an LSN", key);
	return lsn;
}

static Jsonb *
object_field(Jsonb *json, const char *key)
{
	JsonbValue *value = field(json, key);

	if (value == NULL || value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		bad_request("\"%s\" must be an object", key);
	return JsonbValueToJsonb(value);
}

static char *
node_field(Jsonb *json, const char *key)
{
	char	   *id = string_field(json, key);

	if (!rule_is_node_id(id, strlen(id)))
		bad_request("\"%s\" must be a node id", key);
	return id;
}

static Rule *
parse_rule(const char *text, const char *key)
{
	Rule	   *rule = palloc(sizeof(Rule));
	RuleError	error;

	if (!rule_parse(text, strlen(text), rule, &error))
		bad_request("\"%s\" is no rule: %s (at character %zu)", key, error.message, error.at);
	return rule;
}

static char *
ruleset_text_field(Jsonb *json)
{
	char	   *text = string_field(json, "text");

	if (strlen(text) > QUORATE_MAX_TEXT)
		bad_request("\"text\" has more than %d bytes", QUORATE_MAX_TEXT);
	return text;
}

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
		quorate_quiesce(false);
		ereport(LOG, (errmsg("quiesce ended with the connection that asked for it")));
	}
}

/* How soon must somebody look at the operations again?  -1: no need */
long
command_poll_ms(void)
{
	TimestampTz now;
	long		poll;
	dlist_iter	iter;

	/* holding_checkpoints: a ruleset record of ours is on its way */
	if (dlist_is_empty(&operations) && !holding_checkpoints)
		return -1;

	poll = SLOW_POLL_MS;
	now = GetCurrentTimestamp();
	if (holding_checkpoints &&
		!TimestampDifferenceExceeds(holding_since, now, FAST_POLL_FOR_MS))
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
	quorate_json_lsn(&result, "commitLsn", info.commitLsn);
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

/* Keep the ruleset that this leader is going to write. */
static void
set_pending(PendingStage stage, uint32 term, uint64 version, const char *rule,
			const char *text)
{
	Ruleset    *pending = &quorate_shared->pending;

	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	pending->id.term = term;
	pending->id.version = version;
	pending->id.lsn = InvalidXLogRecPtr;
	pending->id.rulelen = strlen(rule);
	pending->id.textlen = strlen(text);
	strcpy(pending->rule, rule);
	strcpy(pending->text, text);
	quorate_shared->stage = stage;
	LWLockRelease(quorate_shared->lock);
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
		return false;
	respond_error(op->client, op->id, "internal",
				  "could not begin term %u; the server log says why", op->term);
	return true;
}

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
	QuorumResult result;

	if (already_elected(request, term, rule_text))
		return;
	if (!check_result(request->client, request->id, term, QuorumFence(term)))
		return;
	if (!RecoveryInProgress())
	{
		(void) check_result(request->client, request->id, term, QUORUM_RESTART_REQUIRED);
		return;
	}
	if (!is_consistent())
	{
		respond_error(request->client, request->id, "not_consistent",
					  "this node has not reached a consistent state yet");
		return;
	}

	/*
	 * From here on nothing is published under an older term, so the rules may
	 * be replaced; and they must be there before the election.
	 */
	quorate_install_rules(term, rule, njoint, joint);
	set_pending(PENDING_ELECTION, term, version, rule_text, text);
	result = QuorumElect(term);
	if (!check_result(request->client, request->id, term, result))
		return;
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
	set_pending(PENDING_ELECTION, term, version, rule_text, text);
	ruleset_step();
	lsn = quorate_shared->pending.id.lsn;
	ereport(LOG, (errmsg("wrote ruleset %llu of term %u at %X/%X, rule %s",
						 (unsigned long long) version, term, LSN_FORMAT_ARGS(lsn), rule_text)));
	start_operation(request, OP_RULESET, term, timeout)->version = version;
}

/*
 * Between the insertion of a ruleset record and the fsync of the file no
 * checkpoint may complete whose redo point lies behind the record, or a crash
 * in between would lose the ruleset.  Checkpoints wait for processes that say
 * so and have a virtual transaction id.
 */
static void
hold_checkpoints(bool hold)
{
	if (hold == holding_checkpoints)
		return;
	if (hold)
	{
		holding_since = GetCurrentTimestamp();
		MyProc->vxid.lxid = GetNextLocalTransactionId();
		pg_memory_barrier();
		MyProc->delayChkptFlags |= DELAY_CHKPT_START;
		pg_memory_barrier();
	}
	else
	{
		MyProc->delayChkptFlags &= ~DELAY_CHKPT_START;
		MyProc->vxid.lxid = InvalidLocalTransactionId;
	}
	holding_checkpoints = hold;
}

static void
write_pending(void)
{
	XLogRecPtr	lsn;

	hold_checkpoints(true);
	lsn = quorate_ruleset_insert(&quorate_shared->pending);
	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	quorate_shared->pending.id.lsn = lsn;
	quorate_shared->stage = PENDING_WRITTEN;
	LWLockRelease(quorate_shared->lock);

	/* not XLogFlush(): that would wait for the quorum */
	QuorumFlushLocal(lsn);
}

static void
apply_pending(void)
{
	Ruleset    *pending = quorate_ruleset_copy(&quorate_shared->pending);

	quorate_ruleset_apply(&pending->id, pending->rule, pending->text);
	hold_checkpoints(false);
	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	quorate_shared->stage = PENDING_NONE;
	LWLockRelease(quorate_shared->lock);
	quorate_drop_joint();
	ereport(LOG, (errmsg("ruleset %llu of term %u is durable, rule %s",
						 (unsigned long long) pending->id.version, pending->id.term,
						 pending->rule)));
	pfree(pending);
}

/*
 * The ruleset that this server writes as a leader: write it, and see to it
 * that it is applied when it is committed.  A deposed leader keeps it as it
 * is: it is part of the log's tail.
 */
void
ruleset_step(void)
{
	QuorumInfo	info;

	if (quorate_shared->stage == PENDING_NONE)
		return;
	QuorumGetInfo(&info);
	if (info.state != QUORUM_LEADER || info.term != quorate_shared->pending.id.term ||
		RecoveryInProgress())
	{
		hold_checkpoints(false);
		return;
	}

	if (quorate_shared->stage == PENDING_ELECTION)
	{
		/*
		 * The transactions of the leader before us ended without a record.
		 * Followers take them for running, and hold snapshots and horizons
		 * for them, until they are told what runs now.
		 */
		LogStandbySnapshot();
		write_pending();
	}
	if (quorate_shared->stage == PENDING_WRITTEN)
	{
		XLogRecPtr	lsn = quorate_shared->pending.id.lsn;

		hold_checkpoints(true);
		if (!QuorumIsCommitted(lsn))
			QuorumEvaluate();
		if (QuorumIsCommitted(lsn))
			apply_pending();
	}
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
		quorate_quiesce(false);
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
	quorate_quiesce(true);
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

			quorate_quiesce(false);
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
