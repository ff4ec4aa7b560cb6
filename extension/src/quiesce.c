/*-------------------------------------------------------------------------
 *
 * quiesce.c
 *	  Hold new transactions at their first statement.
 *
 * For a planned change of the leader: transactions in flight end, new ones
 * wait, so that no client sees an error.  A client backend declares each
 * transaction before its first statement (admitted[] = its local transaction
 * id) and only then looks whether the server is quiesced; the control worker
 * sets the flag first and looks at the declarations afterwards.  With a full
 * barrier on both sides one of them sees the other.
 *
 * The gate opens by itself when the time is over for which it was closed: the
 * one who closed it may be gone, and his sidecar may be frozen.
 *
 * A transaction that waits has not begun to do anything; it can be cancelled
 * and terminated, and statement_timeout holds.  When this server is fenced, it
 * will never begin here: the session ends with 57P01, which the gateway takes
 * as leave to begin it at the next leader, and does so before the server is
 * stopped, which would leave open what has become of it.  Walsenders, background
 * workers and sessions with "quorate.control" don't take part, nor do
 * function calls over the fast path.
 *
 * Locks: none; atomics and a condition variable in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/proc.h"
#include "storage/procnumber.h"
#include "tcop/utility.h"
#include "utils/wait_event.h"

static ExecutorStart_hook_type next_ExecutorStart = NULL;
static ProcessUtility_hook_type next_ProcessUtility = NULL;

/* the transaction that this backend declared last */
static LocalTransactionId declared = InvalidLocalTransactionId;

static uint32 wait_event = 0;

#define QUIESCE_LOOK_MS		1000	/* if there's no time limit */

/* How long to sleep until the gate may have opened by itself */
static long
until_look_ms(void)
{
	uint64		until = pg_atomic_read_u64(&quorate_shared->quiesced_until);
	uint64		now = QuorumClock();

	if (until == 0)
		return QUIESCE_LOOK_MS;
	return until <= now ? 1 : (long) ((until - now) / 1000 + 1);
}

static void
end_if_fenced(void)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	if (info.state != QUORUM_LEADER)
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating connection because this server does not lead any more"),
				 errdetail("The transaction was not begun.")));
}

static void
wait_for_admission(pg_atomic_uint32 *slot)
{
	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("QuorateQuiesce");

	/* Not in flight as long as we wait, nor if the wait is cancelled. */
	pg_atomic_write_u32(slot, InvalidLocalTransactionId);

	ConditionVariablePrepareToSleep(&quorate_shared->quiesce_cv);
	for (;;)
	{
		if (!quorate_is_quiesced())
		{
			pg_atomic_write_u32(slot, MyProc->vxid.lxid);
			pg_memory_barrier();
			if (!quorate_is_quiesced())
				break;
			pg_atomic_write_u32(slot, InvalidLocalTransactionId);
		}
		end_if_fenced();
		(void) ConditionVariableTimedSleep(&quorate_shared->quiesce_cv,
										   until_look_ms(), wait_event);
	}
	ConditionVariableCancelSleep();
}

static inline void
admit(void)
{
	LocalTransactionId lxid = MyProc->vxid.lxid;
	pg_atomic_uint32 *slot;

	if (likely(lxid == declared))
		return;
	if (!AmRegularBackendProcess() || am_walsender ||
		lxid == InvalidLocalTransactionId ||
		MyProcNumber >= quorate_shared->nadmitted)
		return;

	slot = &quorate_shared->admitted[MyProcNumber];
	pg_atomic_write_u32(slot, lxid);
	pg_memory_barrier();
	if (unlikely(quorate_is_quiesced()) && !quorate_control)
		wait_for_admission(slot);
	declared = lxid;
}

static void
hold_ExecutorStart(QueryDesc *queryDesc, int eflags)
{
	admit();
	if (queryDesc->operation == CMD_SELECT &&
		!queryDesc->plannedstmt->hasModifyingCTE &&
		(eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		quorate_check_read();
	if (next_ExecutorStart)
		next_ExecutorStart(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);
}

static void
hold_ProcessUtility(PlannedStmt *pstmt, const char *queryString,
					bool readOnlyTree, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *queryEnv,
					DestReceiver *dest, QueryCompletion *qc)
{
	admit();
	if (IsA(pstmt->utilityStmt, CopyStmt) &&
		!castNode(CopyStmt, pstmt->utilityStmt)->is_from &&
		castNode(CopyStmt, pstmt->utilityStmt)->relation != NULL)
		quorate_check_read();
	quorate_note_utility(pstmt->utilityStmt);
	if (next_ProcessUtility)
		next_ProcessUtility(pstmt, queryString, readOnlyTree, context,
							params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

void
quorate_install_quiesce_hooks(void)
{
	next_ExecutorStart = ExecutorStart_hook;
	ExecutorStart_hook = hold_ExecutorStart;
	next_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = hold_ProcessUtility;
}

bool
quorate_is_quiesced(void)
{
	uint64		until;

	if (likely(pg_atomic_read_u32(&quorate_shared->quiesced) == 0))
		return false;
	until = pg_atomic_read_u64(&quorate_shared->quiesced_until);
	return until == 0 || QuorumClock() < until;
}

/*
 * Control worker: close the gate for so long (0: until it's opened), or open
 * it.
 */
void
quorate_quiesce(bool on, int timeout_ms)
{
	if (on)
		pg_atomic_write_u64(&quorate_shared->quiesced_until, timeout_ms == 0 ? 0 :
							QuorumClock() + (uint64) timeout_ms * 1000);
	pg_write_barrier();
	pg_atomic_write_u32(&quorate_shared->quiesced, on ? 1 : 0);
	pg_memory_barrier();
	if (!on)
		ConditionVariableBroadcast(&quorate_shared->quiesce_cv);
}

/*
 * Control worker: how many admitted transactions are in flight?  The local
 * transaction id of a backend is read without lock: it's one aligned word,
 * and an id never comes back while the server runs.
 */
int
quorate_in_flight(void)
{
	int			n = 0;

	pg_memory_barrier();
	for (int i = 0; i < quorate_shared->nadmitted; i++)
	{
		LocalTransactionId lxid = pg_atomic_read_u32(&quorate_shared->admitted[i]);

		if (lxid != InvalidLocalTransactionId &&
			*(volatile LocalTransactionId *) &GetPGProcByNumber(i)->vxid.lxid == lxid)
			n++;
	}
	return n;
}

/* Control worker: fence, and tell those who wait for admission. */
QuorumResult
quorate_fence(uint32 term)
{
	QuorumResult result = QuorumFence(term);

	if (pg_atomic_read_u32(&quorate_shared->quiesced) != 0)
		ConditionVariableBroadcast(&quorate_shared->quiesce_cv);
	return result;
}
