/*-------------------------------------------------------------------------
 *
 * ruleset_leader.c
 *	  How a leader brings a ruleset into the log and, once committed, in force.
 *
 * The control worker keeps the ruleset in shared memory (PendingStage), writes
 * its record as soon as this server leads the term, and applies it when the
 * record is committed: first the file, then the joint rules are dropped.  A
 * worker that was started anew goes on from the stage that it finds.
 *
 * Runs in the control worker.  Lock: quorate_shared->lock.
 *
 *-------------------------------------------------------------------------
 */
#include "control.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/sinvaladt.h"
#include "storage/standby.h"
#include "utils/timestamp.h"

/* Is there a ruleset record for whose sake we hold up checkpoints? */
static bool holding_checkpoints = false;
static TimestampTz holding_since = 0;

/* Keep the ruleset that this leader is going to write. */
void
ruleset_set_pending(uint32 term, uint64 version, const char *rule, const char *text)
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
	quorate_shared->stage = PENDING_ELECTION;
	LWLockRelease(quorate_shared->lock);
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

/*
 * Is a record of ours on its way?  Nobody wakes us when it is committed.  Says
 * since when.
 */
bool
ruleset_in_progress(TimestampTz *since)
{
	*since = holding_since;
	return holding_checkpoints;
}
