/*-------------------------------------------------------------------------
 *
 * control.h
 *	  Between the sockets (control.c) and the commands (command.c), both in
 *	  the control worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUORATE_CONTROL_H
#define QUORATE_CONTROL_H

#include "quorate.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"

#define CONTROL_MAX_LINE	(1024 * 1024)	/* of a request */
#define CONTROL_MAX_OUTPUT	(16 * 1024 * 1024)	/* not yet read by a client */
#define CONTROL_MAX_OPS		64	/* in flight, per client */

typedef struct Client
{
	pgsocket	sock;			/* PGINVALID_SOCKET: slot is free */
	int			event_pos;		/* in the wait event set */
	StringInfoData in;
	StringInfoData out;
	int			sent;			/* of "out" */
	int			nops;
	bool		closing;		/* read no more, close when all is sent */
	bool		dead;			/* close at once */
	bool		quiesces;		/* asked for it: its end is the end of it */
	bool		watching;
	int			interval_ms;
	TimestampTz last_event;
	uint64		last_signature;
} Client;

/* command.c */
extern void command_execute(Client *client, char *line, int len);
extern void command_step_all(void);

/* operation.c */
extern void command_forget_client(Client *client);
extern long command_poll_ms(void);

/* ruleset_leader.c */
extern void ruleset_set_pending(uint32 term, uint64 version, const char *rule, const char *text);
extern void ruleset_step(void);
extern bool ruleset_in_progress(TimestampTz *since);

/* control.c */
extern void client_send_line(Client *client, StringInfo line);
extern bool control_is_stopping(void);

#endif							/* QUORATE_CONTROL_H */
