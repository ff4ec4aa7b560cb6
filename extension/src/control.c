/*-------------------------------------------------------------------------
 *
 * control.c
 *	  The control worker: sockets, lines, events.
 *
 * A background worker without database that starts with the postmaster, long
 * before SQL is possible, and through which a sidecar grants and withdraws
 * what this server may do (docs/control-socket.md).  One loop over a wait
 * event set, nothing in it blocks: a command that must wait for something is
 * kept as an operation (operation.c) and looked at again each time the loop
 * turns.  Input and output of each client are bounded.
 *
 * The worker is the only process that changes the rules in force and writes
 * ruleset records.  If it fails it is started again; what it was about lies in
 * shared memory (PendingStage).  Its clients see end-of-file and ask again.
 *
 * Shutdown: the worker announces "stopping", and goes on as long as backends
 * wait for the quorum, since the server can't stop before they're done.
 *
 * Locks: see quorate.h.  The pointer to the worker's latch is published
 * before anything else and withdrawn when it exits.
 *
 *-------------------------------------------------------------------------
 */
#include "control.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/waiteventset.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "mb/pg_wchar.h"

#define RESTART_SECONDS		1
#define WATCH_POLL_MS		100 /* receiver and walsenders set no latch here */
#define IDLE_POLL_MS		10000
#define STALE_SOCKET_TRIES	40
#define STALE_SOCKET_WAIT_MS 50

static Client *clients;
static int	nclients;			/* slots */
static pgsocket listener = PGINVALID_SOCKET;
static WaitEventSet *events_set = NULL;
static bool stopping = false;
static MemoryContext loop_context;

void
quorate_register_control_worker(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_PostmasterStart;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "quorate", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "quorate_control_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "quorate control", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "quorate control", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

bool
control_is_stopping(void)
{
	return stopping;
}

/* ------------------------------------------------------------------------
 * Sockets
 * ------------------------------------------------------------------------
 */

static bool
somebody_listens(const struct sockaddr_un *addr)
{
	pgsocket	sock = socket(AF_UNIX, SOCK_STREAM, 0);
	bool		result;

	if (sock == PGINVALID_SOCKET)
		return false;
	result = connect(sock, (const struct sockaddr *) addr, sizeof(*addr)) == 0 ||
		errno == EAGAIN;
	closesocket(sock);
	return result;
}

/*
 * Remove what a server that crashed left behind.  Its control worker may take
 * a moment to notice the postmaster's death.
 */
static void
remove_stale_socket(const struct sockaddr_un *addr)
{
	struct stat st;

	if (lstat(addr->sun_path, &st) != 0)
		return;
	if (!S_ISSOCK(st.st_mode))
		ereport(ERROR,
				(errmsg("could not create control socket \"%s\": there is a file of that name that is not a socket",
						addr->sun_path)));
	for (int i = 0; somebody_listens(addr); i++)
	{
		if (i >= STALE_SOCKET_TRIES)
			ereport(ERROR,
					(errmsg("could not create control socket \"%s\": another process listens on it",
							addr->sun_path),
					 errhint("Is another server running with the same \"quorate.control_socket\"?")));
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STALE_SOCKET_WAIT_MS, PG_WAIT_EXTENSION);
	}
	if (unlink(addr->sun_path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", addr->sun_path)));
}

static void
start_listening(void)
{
	const char *path = quorate_socket_path();
	struct sockaddr_un addr;
	mode_t		mask;
	int			rc;

	memset(&addr, 0, sizeof(addr));
	addr.sun_family = AF_UNIX;
	strlcpy(addr.sun_path, path, sizeof(addr.sun_path));

	remove_stale_socket(&addr);

	ReserveExternalFD();
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (listener == PGINVALID_SOCKET)
		ereport(ERROR, (errmsg("could not create control socket: %m")));
	mask = umask(S_IRWXG | S_IRWXO | S_IXUSR);
	rc = bind(listener, (struct sockaddr *) &addr, sizeof(addr));
	umask(mask);
	if (rc != 0)
		ereport(ERROR,
				(errmsg("could not bind control socket \"%s\": %m", path)));
	if (!pg_set_noblock(listener) || listen(listener, 16) != 0)
		ereport(ERROR,
				(errmsg("could not listen on control socket \"%s\": %m", path)));
	ereport(LOG, (errmsg("quorate control listens on \"%s\"", path)));
}

static void
rebuild_events_set(void)
{
	if (events_set != NULL)
		FreeWaitEventSet(events_set);
	events_set = CreateWaitEventSet(NULL, nclients + 3);
	AddWaitEventToSet(events_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(events_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(events_set, WL_SOCKET_READABLE, listener, NULL, NULL);
	for (int i = 0; i < nclients; i++)
	{
		if (clients[i].sock != PGINVALID_SOCKET)
			clients[i].event_pos =
				AddWaitEventToSet(events_set, WL_SOCKET_READABLE,
								  clients[i].sock, NULL, &clients[i]);
	}
}

static void
accept_client(void)
{
	pgsocket	sock = accept(listener, NULL, NULL);
	Client	   *client = NULL;

	if (sock == PGINVALID_SOCKET)
		return;					/* gone already, or out of descriptors */
	for (int i = 0; i < nclients && client == NULL; i++)
	{
		if (clients[i].sock == PGINVALID_SOCKET)
			client = &clients[i];
	}
	if (client == NULL || !pg_set_noblock(sock) || !AcquireExternalFD())
	{
		ereport(WARNING,
				(errmsg("refused a connection to the control socket"),
				 errdetail("There are %d connections already, or file descriptors are short.",
						   nclients)));
		closesocket(sock);
		return;
	}
	memset(client, 0, sizeof(*client));
	client->sock = sock;
	initStringInfo(&client->in);
	initStringInfo(&client->out);
	rebuild_events_set();
}

static void
close_client(Client *client)
{
	command_forget_client(client);
	closesocket(client->sock);
	ReleaseExternalFD();
	client->sock = PGINVALID_SOCKET;
	pfree(client->in.data);
	pfree(client->out.data);
	rebuild_events_set();
}

void
client_send_line(Client *client, StringInfo line)
{
	if (client->dead)
		return;
	if (client->out.len - client->sent + line->len + 1 > CONTROL_MAX_OUTPUT)
	{
		ereport(WARNING,
				(errmsg("closed a connection to the control socket whose client does not read")));
		client->dead = true;
		return;
	}
	appendBinaryStringInfo(&client->out, line->data, line->len);
	appendStringInfoChar(&client->out, '\n');
}

/* Send what the socket takes. */
static void
client_write(Client *client)
{
	while (!client->dead && client->sent < client->out.len)
	{
		ssize_t		n = send(client->sock, client->out.data + client->sent,
							 client->out.len - client->sent, MSG_NOSIGNAL);

		if (n > 0)
			client->sent += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		else
			client->dead = true;
	}
	if (client->sent == client->out.len)
	{
		resetStringInfo(&client->out);
		client->sent = 0;
		if (client->closing && client->nops == 0)
			client->dead = true;
	}
}

/* Execute each complete line of the input, keep the rest. */
static void
client_lines(Client *client)
{
	int			start = 0;

	while (!client->dead && !client->closing)
	{
		char	   *line = client->in.data + start;
		char	   *end = memchr(line, '\n', client->in.len - start);

		if (end == NULL)
			break;
		*end = '\0';
		start = end + 1 - client->in.data;
		command_execute(client, line, end - line);
	}
	if (start > 0)
	{
		memmove(client->in.data, client->in.data + start, client->in.len - start);
		client->in.len -= start;
		client->in.data[client->in.len] = '\0';
	}
	if (client->in.len > CONTROL_MAX_LINE && !client->closing)
	{
		/* says so, and ends: there's no way to find the next request */
		command_execute(client, client->in.data, client->in.len);
		resetStringInfo(&client->in);
		client->closing = true;
	}
}

static void
client_read(Client *client)
{
	char		chunk[16 * 1024];

	for (int i = 0; i < 64 && !client->dead; i++)
	{
		ssize_t		n = recv(client->sock, chunk, sizeof(chunk), 0);

		if (n > 0)
		{
			if (client->closing)
				continue;		/* drop it */
			appendBinaryStringInfo(&client->in, chunk, n);
			client_lines(client);
		}
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		else
			client->dead = true;
	}
}

/* ------------------------------------------------------------------------
 * Events
 * ------------------------------------------------------------------------
 */

static void
send_events(void)
{
	TimestampTz now = 0;
	uint64		signature = 0;
	StringInfoData line;

	line.data = NULL;
	for (int i = 0; i < nclients; i++)
	{
		Client	   *client = &clients[i];

		if (client->sock == PGINVALID_SOCKET || client->dead || !client->watching)
			continue;
		if (now == 0)
		{
			now = GetCurrentTimestamp();
			signature = quorate_status_signature(stopping);
		}
		if (client->last_event != 0 && signature == client->last_signature &&
			!TimestampDifferenceExceeds(client->last_event, now, client->interval_ms))
			continue;
		client_write(client);
		if (client->sent < client->out.len)
			continue;			/* later: it gets the newest, not each */
		if (line.data == NULL)
		{
			initStringInfo(&line);
			appendStringInfoString(&line, "{\"event\":\"status\",\"status\":");
			quorate_status_json(&line, stopping);
			appendStringInfoChar(&line, '}');
		}
		client->last_event = now;
		client->last_signature = signature;
		client_send_line(client, &line);
	}
}

static long
loop_timeout(void)
{
	long		timeout = command_poll_ms();

	if (timeout < 0)
		timeout = IDLE_POLL_MS;
	if (stopping)
		timeout = Min(timeout, WATCH_POLL_MS);
	for (int i = 0; i < nclients; i++)
	{
		if (clients[i].sock != PGINVALID_SOCKET && clients[i].watching)
			timeout = Min(timeout, Min(WATCH_POLL_MS, clients[i].interval_ms));
	}
	return timeout;
}

/* ------------------------------------------------------------------------
 * The worker
 * ------------------------------------------------------------------------
 */

static void
control_exit(int code, Datum arg)
{
	pg_atomic_write_u64(&quorate_shared->control_latch, 0);

	/*
	 * In this order: as long as we listen no successor takes the path, so it's
	 * ours that is removed.
	 */
	if (listener != PGINVALID_SOCKET)
	{
		unlink(quorate_socket_path());
		closesocket(listener);
	}
}

static void
flush_clients(void)
{
	for (int i = 0; i < nclients; i++)
	{
		Client	   *client = &clients[i];

		if (client->sock == PGINVALID_SOCKET)
			continue;
		client_write(client);
		if (client->dead)
			close_client(client);	/* rebuilds the set */
	}
	for (int i = 0; i < nclients; i++)
	{
		Client	   *client = &clients[i];

		if (client->sock != PGINVALID_SOCKET)
			ModifyWaitEvent(events_set, client->event_pos,
							WL_SOCKET_READABLE |
							(client->sent < client->out.len ? WL_SOCKET_WRITEABLE : 0),
							NULL);
	}
}

static void
shutdown_if_possible(void)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	if (info.nwaiting > 0)
		return;
	/* not 0: that would mean that it must not be started again */
	proc_exit(1);
}

/*
 * A leader whose rule needs nobody else has proof at any time, but no member
 * whose confirmation would note it: observers want to hear of it.
 */
static void
prove_alone(void)
{
	QuorumInfo	info;

	QuorumGetInfo(&info);
	if (info.state == QUORUM_LEADER && info.selfSufficient)
		QuorumProofGiven();
}

void
quorate_control_main(Datum arg)
{
	WaitEvent  *events;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	/* Texts are UTF-8, and there's no database to say so. */
	SetDatabaseEncoding(PG_UTF8);

	/* What we write brings the quorum back: nothing may hold us up. */
	QuorumThrottleExempt = true;

	/*
	 * Become visible in the array of processes, so that checkpoints can see
	 * that we hold them up (ruleset_step).
	 */
	InitProcessPhase2();

	pg_atomic_write_u64(&quorate_shared->control_latch, (uint64) (uintptr_t) MyLatch);
	on_shmem_exit(control_exit, (Datum) 0);

	nclients = quorate_max_clients;
	clients = MemoryContextAllocZero(TopMemoryContext, sizeof(Client) * nclients);
	for (int i = 0; i < nclients; i++)
		clients[i].sock = PGINVALID_SOCKET;
	events = MemoryContextAlloc(TopMemoryContext, sizeof(WaitEvent) * (nclients + 3));
	loop_context = AllocSetContextCreate(TopMemoryContext, "quorate control loop",
										 ALLOCSET_DEFAULT_SIZES);
	start_listening();
	rebuild_events_set();

	/* Whoever quiesced the server through our predecessor is gone. */
	quorate_quiesce(false, 0);

	for (;;)
	{
		int			n;

		MemoryContextSwitchTo(TopMemoryContext);
		n = WaitEventSetWait(events_set, loop_timeout(), events, nclients + 3,
							 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			quorate_warn_settings();
		}
		if (ShutdownRequestPending)
			stopping = true;

		/* Clients last: to accept one or to lose one rebuilds the set. */
		for (int i = 0; i < n; i++)
		{
			Client	   *client = events[i].user_data;

			if (client != NULL && client->sock != PGINVALID_SOCKET &&
				(events[i].events & WL_SOCKET_READABLE))
				client_read(client);
		}
		for (int i = 0; i < n; i++)
		{
			if (events[i].user_data == NULL && (events[i].events & WL_SOCKET_READABLE))
				accept_client();
		}

		prove_alone();
		ruleset_step();
		command_step_all();
		MemoryContextSwitchTo(loop_context);
		send_events();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(loop_context);
		flush_clients();

		if (stopping)
			shutdown_if_possible();
	}
}
