/*-------------------------------------------------------------------------
 *
 * operation.c
 *	  Commands of the control socket that wait for something.
 *
 * Each is looked at whenever the loop of control.c turns, until it can be
 * answered.  It is forgotten when its client goes; what it caused goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "operation.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#define FAST_POLL_MS		1
#define SLOW_POLL_MS		20
#define FAST_POLL_FOR_MS	1000

static dlist_head operations = DLIST_STATIC_INIT(operations);

Operation *
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

	if (log_scan_wanted())
		return 0;
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

/* Look at each of them; "step" returns true when it has answered. */
void
operations_step(bool (*step) (Operation *op))
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
			done = step(op);
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
