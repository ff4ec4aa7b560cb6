/*-------------------------------------------------------------------------
 *
 * quorate.c
 *	  Entry point: settings, shared memory, the routine that the core calls.
 *
 * Loaded by shared_preload_libraries the library makes this server a node of
 * a cohort: it refuses to start with settings under which acknowledged data
 * could be lost, it installs the quorum routine, the resource manager and the
 * hooks of quiesce.c, and registers the control worker.  Loaded later, by
 * CREATE EXTENSION in a server that is not (yet) part of a cohort, it offers
 * its SQL functions, which say that it is not enabled.
 *
 * A stand-alone server (postgres --single) gets all of it but the worker:
 * it must be able to redo ruleset records.  So must one that restores a
 * backup ("quorate.restoring"), which gets nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

PG_MODULE_MAGIC_EXT(.name = "quorate", .version = "1.0");

#define QUORATE_TRANCHE		"quorate"

QuorateShared *quorate_shared = NULL;

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

static Size
shared_size(void)
{
	return add_size(offsetof(QuorateShared, admitted),
					mul_size(MaxBackends, sizeof(pg_atomic_uint32)));
}

static void
request_shmem(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(QUORATE_TRANCHE, 1);
}

static void
start_shmem(void)
{
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	quorate_shared = ShmemInitStruct("quorate", shared_size(), &found);
	if (!found)
	{
		memset(quorate_shared, 0, shared_size());
		quorate_shared->lock = &GetNamedLWLockTranche(QUORATE_TRANCHE)->lock;
		pg_atomic_init_u64(&quorate_shared->control_latch, 0);
		pg_atomic_init_u32(&quorate_shared->quiesced, 0);
		pg_atomic_init_u64(&quorate_shared->quiesced_until, 0);
		ConditionVariableInit(&quorate_shared->quiesce_cv);
		quorate_shared->nadmitted = MaxBackends;
		for (int i = 0; i < MaxBackends; i++)
			pg_atomic_init_u32(&quorate_shared->admitted[i], 0);
		quorate_ruleset_load();
	}
	LWLockRelease(AddinShmemInitLock);
}

/* The walsender asks about its client. */
static QuorumPeerKind
peer_kind(void)
{
	return quorate_member ? QUORUM_PEER_MEMBER :
		quorate_observer ? QUORUM_PEER_OBSERVER : QUORUM_PEER_STRANGER;
}

/*
 * Wake the control worker; any process, even in a critical section.  The
 * latch is one of the fixed array of PGPROCs: at worst whoever got it next
 * wakes up for nothing.
 */
void
quorate_wake_control(void)
{
	Latch	   *latch;

	if (quorate_shared == NULL)
		return;
	latch = (Latch *) (uintptr_t) pg_atomic_read_u64(&quorate_shared->control_latch);
	if (latch != NULL)
		SetLatch(latch);
}

static const QuorumRoutine routine = {
	.evaluate = quorate_evaluate,
	.peer_kind = peer_kind,
	.changed = quorate_wake_control,
};

void
_PG_init(void)
{
	/* Without shared memory there is nothing to configure. */
	if (!process_shared_preload_libraries_in_progress)
		return;

	quorate_install_report();
	quorate_define_settings();
	quorate_register_rmgr();

	/* Nothing below matters to a process that only prints a setting. */
	if (IsPostmasterEnvironment && !quorate_restoring)
		quorate_check_settings();

	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_shmem;

	/* A server that only replays an archive is part of no cohort. */
	if (quorate_restoring)
		return;

	quorate_install_quiesce_hooks();
	quorate_install_read_hooks();
	quorum_routine = &routine;

	if (IsPostmasterEnvironment)
		quorate_register_control_worker();
}
