/*-------------------------------------------------------------------------
 *
 * request.h
 *	  Requests and responses of the control socket: JSON in, JSON out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUORATE_REQUEST_H
#define QUORATE_REQUEST_H

#include "control.h"

#include "utils/jsonb.h"

/* A request while it is executed; all of it lives in the request's context. */
typedef struct Request
{
	Client	   *client;
	Jsonb	   *json;
	char	   *id;				/* JSON text */
} Request;

extern void respond_error(Client *client, const char *id, const char *code,
						  const char *fmt,...) pg_attribute_printf(4, 5);
extern void respond_ok(Client *client, const char *id, const char *result);
extern void respond_lsn(Client *client, const char *id, XLogRecPtr lsn);
extern void respond_position(Client *client, const char *id, TimeLineID tli, XLogRecPtr lsn);
extern void respond_status(Client *client, const char *id);
extern void respond_stale(Client *client, const char *id, uint32 term);
extern bool check_result(Client *client, const char *id, uint32 term, QuorumResult result);

pg_noreturn extern void bad_request(const char *fmt,...) pg_attribute_printf(1, 2);

extern JsonbValue *field(Jsonb *json, const char *key);
extern char *value_string(JsonbValue *value, const char *key);
extern char *string_field(Jsonb *json, const char *key);
extern uint64 number_field(Jsonb *json, const char *key, uint64 min, uint64 max);
extern uint64 number_field_or(Jsonb *json, const char *key, uint64 min, uint64 max,
							  uint64 otherwise);
extern uint32 term_field(Jsonb *json);
extern uint64 version_field(Jsonb *json);
extern XLogRecPtr lsn_field(Jsonb *json, const char *key);
extern Jsonb *object_field(Jsonb *json, const char *key);
extern char *node_field(Jsonb *json, const char *key);
extern Rule *parse_rule(const char *text, const char *key);
extern char *ruleset_text_field(Jsonb *json);

#endif							/* QUORATE_REQUEST_H */
