/*-------------------------------------------------------------------------
 *
 * command.c
 *	  The commands of the control socket (docs/control-socket.md).
 *
 * A request is parsed and executed in its own memory context; what is wrong
 * with it ends as an error response and never ends the worker.  A command
 * that can't be answered at once becomes an Operation.  Each is given up
 * ("superseded") when a higher term arrives.
 *
 *-------------------------------------------------------------------------
 */
#include "operation.h"

#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MIN_INTERVAL_MS		10

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
char *
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
	log_scan_step();
	operations_step(command_step);
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
