/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Requests and responses of the control socket: JSON in, JSON out.
 *
 * The functions that read a field raise an error when it is missing or wrong;
 * command_execute() turns that into the response "bad_request".  All memory
 * is that of the current context.
 *
 * Runs in the control worker.
 *
 *-------------------------------------------------------------------------
 */
#include "request.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/pg_lsn.h"

/* ------------------------------------------------------------------------
 * Responses
 * ------------------------------------------------------------------------
 */

void
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
void
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

void
respond_lsn(Client *client, const char *id, XLogRecPtr lsn)
{
	StringInfoData result;

	initStringInfo(&result);
	quorate_json_lsn(&result, "lsn", lsn);
	respond_ok(client, id, result.data);
	pfree(result.data);
}

void
respond_position(Client *client, const char *id, TimeLineID tli, XLogRecPtr lsn)
{
	StringInfoData result;

	initStringInfo(&result);
	quorate_json_position(&result, tli, lsn);
	respond_ok(client, id, result.data);
	pfree(result.data);
}

void
respond_status(Client *client, const char *id)
{
	StringInfoData result;

	initStringInfo(&result);
	appendStringInfoString(&result, ",\"status\":");
	quorate_status_json(&result, control_is_stopping());
	respond_ok(client, id, result.data);
	pfree(result.data);
}

void
respond_stale(Client *client, const char *id, uint32 term)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	respond_error(client, id, "stale_term",
				  "term %u is below term %u, which this node already obeys",
				  term, info.fenceTerm);
}

/* Returns false after it has answered why not. */
bool
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

void
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

JsonbValue *
field(Jsonb *json, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&json->root, key, strlen(key), NULL);

	return value != NULL && value->type == jbvNull ? NULL : value;
}

char *
value_string(JsonbValue *value, const char *key)
{
	if (value == NULL || value->type != jbvString)
		bad_request("\"%s\" must be a string", key);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

char *
string_field(Jsonb *json, const char *key)
{
	return value_string(field(json, key), key);
}

/* A whole number from "min" to "max"; "min" may not be negative. */
uint64
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

uint64
number_field_or(Jsonb *json, const char *key, uint64 min, uint64 max, uint64 otherwise)
{
	return field(json, key) == NULL ? otherwise : number_field(json, key, min, max);
}

uint32
term_field(Jsonb *json)
{
	return number_field(json, "term", 1, PG_UINT32_MAX);
}

uint64
version_field(Jsonb *json)
{
	return number_field(json, "version", 1, PG_INT64_MAX);
}

XLogRecPtr
lsn_field(Jsonb *json, const char *key)
{
	char	   *text = string_field(json, key);
	bool		error = false;
	XLogRecPtr	lsn = pg_lsn_in_internal(text, &error);

	if (error || lsn == InvalidXLogRecPtr)
		bad_request("\"%s\" must be an LSN", key);
	return lsn;
}

Jsonb *
object_field(Jsonb *json, const char *key)
{
	JsonbValue *value = field(json, key);

	if (value == NULL || value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		bad_request("\"%s\" must be an object", key);
	return JsonbValueToJsonb(value);
}

char *
node_field(Jsonb *json, const char *key)
{
	char	   *id = string_field(json, key);

	if (!rule_is_node_id(id, strlen(id)))
		bad_request("\"%s\" must be a node id", key);
	return id;
}

Rule *
parse_rule(const char *text, const char *key)
{
	Rule	   *rule = palloc(sizeof(Rule));
	RuleError	error;

	if (!rule_parse(text, strlen(text), rule, &error))
		bad_request("\"%s\" is no rule: %s (at character %zu)", key, error.message, error.at);
	return rule;
}

char *
ruleset_text_field(Jsonb *json)
{
	char	   *text = string_field(json, "text");

	if (strlen(text) > QUORATE_MAX_TEXT)
		bad_request("\"text\" has more than %d bytes", QUORATE_MAX_TEXT);
	return text;
}
