/*-------------------------------------------------------------------------
 *
 * operation.h
 *	  Commands of the control socket that can't be answered at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUORATE_OPERATION_H
#define QUORATE_OPERATION_H

#include "request.h"

#define MAX_TIMEOUT_MS		(24 * 3600 * 1000)

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

/* operation.c */
extern Operation *start_operation(Request *request, OpKind kind, uint32 term,
								  uint64 timeout_ms);
extern void operations_step(bool (*step) (Operation *op));

/* command.c */
extern char *recover_from_error(MemoryContext context, bool *is_bad_request, bool log);

/* command_stream.c */
extern bool step_fence(Operation *op, const QuorumInfo *info);
extern void execute_fence(Request *request);
extern void execute_follow(Request *request);
extern bool step_fetch(Operation *op, const QuorumInfo *info);
extern void execute_fetch(Request *request);
extern void forget_scanned_log(void);
extern bool log_scan_wanted(void);
extern void log_scan_step(void);

/* command_lead.c */
extern bool step_elect(Operation *op, const QuorumInfo *info);
extern void execute_elect(Request *request);
extern bool step_ruleset(Operation *op, const QuorumInfo *info);
extern void execute_ruleset(Request *request);
extern bool step_quiesce(Operation *op, const QuorumInfo *info);
extern void execute_quiesce(Request *request);

#endif							/* QUORATE_OPERATION_H */
