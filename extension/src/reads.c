/*-------------------------------------------------------------------------
 *
 * reads.c
 *	  May this server answer a read?
 *
 * A leader that was isolated or paused may have been replaced without noticing,
 * and what it would answer is then out of date.  So a read on a leader needs
 * proof that its leadership lasted until its snapshot was taken:
 *
 *	lease		members that meet the durability rule, hence one of every
 *				majority that could elect somebody else, confirmed a heartbeat
 *				that was sent less than "quorate.lease" ago.  Whoever replaces
 *				a leader that he could not fence waits that long first.  Costs
 *				nothing but relies on clocks that run at nearly the same rate.
 *	heartbeat	they confirmed a heartbeat that was sent after the snapshot was
 *				taken.  Costs a round trip, relies on no clock.
 *	none		nothing.
 *
 * Proof is looked for after the snapshot was taken, when a plan is about to be
 * executed.  A pause before that makes the proof too old; a pause after it is
 * harmless, because the answer was right at the time of the snapshot.  Where
 * the lease has run out, the read waits for a heartbeat.
 *
 * On a follower "quorate.max_staleness" bounds the age of what is read; a read
 * waits for fresher contents up to "quorate.staleness_timeout".
 *
 * Only statements that return rows of tables without writing are checked:
 * whatever writes waits for the quorum anyway.  Walsenders, background workers
 * and connections that are being established aren't.
 *
 * Runs in client backends; no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "access/xlog.h"
#include "catalog/objectaccess.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/pmsignal.h"
#include "tcop/pquery.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#define MAX_LEASE_MS		60000
#define MIN_HEARTBEAT_MS	10
#define MAX_HEARTBEAT_MS	250
#define HEARTBEATS_PER_LEASE	4
#define STALENESS_POLL_MS	5

typedef enum ReadProof
{
	PROOF_LEASE,
	PROOF_HEARTBEAT,
	PROOF_NONE,
} ReadProof;

static const struct config_enum_entry read_proofs[] = {
	{"lease", PROOF_LEASE, false},
	{"heartbeat", PROOF_HEARTBEAT, false},
	{"none", PROOF_NONE, false},
	{NULL, 0, false}
};

int			quorate_lease_ms = 0;

static int	read_proof = PROOF_LEASE;
static int	read_timeout_ms = 5000;
static int	max_staleness_ms = 0;
static int	staleness_timeout_ms = 5000;

static object_access_hook_type next_object_access = NULL;

/* A lease needs several heartbeats, or one that is late would end it. */
static void
assign_lease(int newval, void *extra)
{
	quorum_heartbeat_ms = newval == 0 ? MAX_HEARTBEAT_MS :
		Min(MAX_HEARTBEAT_MS, Max(MIN_HEARTBEAT_MS, newval / HEARTBEATS_PER_LEASE));
}

static bool
read_on_leader(void)
{
	uint64		now;

	if (read_proof == PROOF_NONE)
		return true;
	/*
	 * Whoever saw the postmaster end replaces this leader without waiting for
	 * the lease.  A backend notices at its next wait; with requests in its
	 * socket it may not wait for a while.
	 */
	if (!PostmasterIsAlive())
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("terminating connection due to unexpected postmaster exit")));
	now = QuorumClock();
	if (read_proof == PROOF_LEASE)
	{
		uint64		proven;

		if (quorate_lease_ms == 0)
			return true;
		proven = QuorumProven();
		if (proven >= now || now - proven <= (uint64) quorate_lease_ms * 1000)
			return true;
	}
	return QuorumProve(now, read_timeout_ms);
}

static bool
read_on_follower(void)
{
	uint64		deadline;

	if (max_staleness_ms == 0)
		return true;
	deadline = QuorumClock() + (uint64) staleness_timeout_ms * 1000;
	for (;;)
	{
		int64		age = QuorumStaleness();

		if (age >= 0 && age <= (int64) max_staleness_ms * 1000)
			return true;
		if (QuorumClock() >= deadline)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STALENESS_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Called when there is a snapshot and a statement is about to use it. */
void
quorate_check_read(void)
{
	if (!AmRegularBackendProcess() || am_walsender || !IsNormalProcessingMode())
		return;
	if (RecoveryInProgress())
	{
		if (!read_on_follower())
			ereport(ERROR,
					(errcode(ERRCODE_QUORATE_CANNOT_READ),
					 errmsg("the contents of this server may be older than \"quorate.max_staleness\""),
					 errdetail("They have not become fresher within \"quorate.staleness_timeout\"."),
					 errhint("Read on the leader, or raise the limit.")));
	}
	else if (!read_on_leader())
		ereport(ERROR,
				(errcode(ERRCODE_QUORATE_CANNOT_READ),
				 errmsg("this server cannot prove that it still leads, so what it would answer may be out of date"),
				 errdetail("Too few members have confirmed its leadership within \"quorate.read_timeout\"."),
				 errhint("Read on the present leader, or set \"quorate.read_proof\" to \"none\" to see what this server has.")));
	quorate_note_read();
}

/*
 * Function calls over the fast path (large objects) take a snapshot, too, but
 * go through no executor.
 */
static void
note_function_call(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	if (access == OAT_FUNCTION_EXECUTE)
	{
		quorate_note_function(objectId);
		if (ActivePortal == NULL)
			quorate_check_read();
	}
	if (next_object_access)
		next_object_access(access, classId, objectId, subId, arg);
}

void
quorate_install_reads(void)
{
	DefineCustomIntVariable("quorate.lease",
							"How long a leader may answer reads after members have confirmed its leadership.",
							"Has to be the same on all nodes: whoever replaces a leader waits that long. 0: reads need no proof.",
							&quorate_lease_ms, 0, 0, MAX_LEASE_MS,
							PGC_POSTMASTER, GUC_UNIT_MS,
							NULL, assign_lease, NULL);
	DefineCustomEnumVariable("quorate.read_proof",
							 "What a read on a leader needs for proof that it still leads.",
							 "\"lease\": a confirmation within \"quorate.lease\"; \"heartbeat\": one that is younger than the read; \"none\": nothing.",
							 &read_proof, PROOF_LEASE, read_proofs,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("quorate.read_timeout",
							"How long a read on a leader waits for proof that it still leads.",
							NULL,
							&read_timeout_ms, 5000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("quorate.max_staleness",
							"How old the contents of a follower may be for a read.",
							"Counted from when the leader, with proof that it led, announced what is visible here. 0: no limit.",
							&max_staleness_ms, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("quorate.staleness_timeout",
							"How long a read on a follower waits for contents that are fresh enough.",
							"Fresh enough is what \"quorate.max_staleness\" says.",
							&staleness_timeout_ms, 5000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

void
quorate_install_read_hooks(void)
{
	next_object_access = object_access_hook;
	object_access_hook = note_function_call;
}
