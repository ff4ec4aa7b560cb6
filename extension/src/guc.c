/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  Settings, and which settings of Postgres itself are refused.
 *
 * quorate_check_settings() runs in the postmaster while it loads the
 * library: a server that could lose acknowledged data does not start.  Two of
 * these settings can be changed while the server runs; then the control
 * worker complains at each reload.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include <sys/un.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "utils/guc.h"
#include "utils/varlena.h"

char	   *quorate_node_id = NULL;
char	   *quorate_control_socket = NULL;
bool		quorate_member = false;
bool		quorate_observer = false;
bool		quorate_restoring = false;
bool		quorate_control = false;
int			quorate_max_clients = 16;

static bool
check_node_id(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' || rule_is_node_id(*newval, strlen(*newval)))
		return true;
	GUC_check_errdetail("A node id is a lower-case letter followed by at most 62 lower-case letters, digits, \"_\" or \"-\".");
	return false;
}

void
quorate_define_settings(void)
{
	DefineCustomStringVariable("quorate.node_id",
							   "Name of this server in durability rules.",
							   NULL,
							   &quorate_node_id, "",
							   PGC_POSTMASTER, 0,
							   check_node_id, NULL, NULL);
	DefineCustomStringVariable("quorate.control_socket",
							   "Path of the Unix socket on which the sidecar controls this server.",
							   "If empty, \".s.QUORATE.<port>\" in the first directory of \"unix_socket_directories\".",
							   &quorate_control_socket, "",
							   PGC_POSTMASTER, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("quorate.max_control_clients",
							"Number of connections to the control socket.",
							NULL,
							&quorate_max_clients, 16, 1, 256,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.member",
							 "The client of this connection is a member of the cohort.",
							 "Set by a walreceiver in the options of its connection. Members get all WAL, others only what is committed.",
							 &quorate_member, false,
							 PGC_BACKEND, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.observer",
							 "The client of this connection is an observer of the cohort.",
							 "Set by a walreceiver in the options of its connection. Observers get what is committed, and are told so.",
							 &quorate_observer, false,
							 PGC_BACKEND, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.restoring",
							 "This server replays an archive and is no node of a cohort.",
							 "Everything in the archive is committed: recovery goes on as in any other server.",
							 &quorate_restoring, false,
							 PGC_POSTMASTER, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("quorate.max_uncommitted_wal",
							"How much WAL a leader may write beyond what the quorum has committed.",
							"Writers wait when there is more. 0: no limit but that of the buffer pool.",
							&quorum_max_uncommitted_wal, 256 * 1024, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.debug_page_gate",
							 "Data pages are written only when the quorum has their WAL.",
							 "For tests that show what happens otherwise. Off corrupts data at a failover.",
							 &QuorumPageGate, true,
							 PGC_POSTMASTER, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.debug_commit_order",
							 "Commits become visible in the order of their records.",
							 "For tests that show what happens otherwise.",
							 &QuorumCommitOrder, true,
							 PGC_POSTMASTER, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL,
							 NULL, NULL, NULL);
	quorate_install_reads();
	DefineCustomBoolVariable("quorate.control",
							 "This session goes on while the server is quiesced.",
							 NULL,
							 &quorate_control, false,
							 PGC_SUSET, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("quorate");
}

/*
 * Where the control socket is, or NULL if that can't be told.  The result is
 * static.
 */
const char *
quorate_socket_path(void)
{
	static char path[MAXPGPATH];
	char	   *dirs;
	List	   *list;

	if (quorate_control_socket != NULL && quorate_control_socket[0] != '\0')
		return quorate_control_socket;

	if (Unix_socket_directories == NULL)
		return NULL;
	dirs = pstrdup(Unix_socket_directories);
	if (!SplitDirectoriesString(dirs, ',', &list) || list == NIL)
		return NULL;
	snprintf(path, sizeof(path), "%s/.s.QUORATE.%d",
			 (char *) linitial(list), PostPortNumber);
	return path;
}

void
quorate_check_settings(void)
{
	const char *path = quorate_socket_path();
	struct sockaddr_un addr;

	if (quorate_node_id == NULL || quorate_node_id[0] == '\0')
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"quorate.node_id\" is not set"),
				 errhint("Set it to the name that this server has in the durability rules.")));
	if (wal_level < WAL_LEVEL_REPLICA)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quorate cannot run with \"wal_level\" \"minimal\""),
				 errhint("Set \"wal_level\" to \"replica\" or \"logical\".")));
	if (!fullPageWrites)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quorate cannot run with \"full_page_writes\" off"),
				 errdetail("A log tail that missed its quorum is dropped by recovery, which needs full page images."),
				 errhint("Set \"full_page_writes\" to on.")));
	if (restart_after_crash)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quorate cannot run with \"restart_after_crash\" on"),
				 errdetail("A leader must not continue its term after a crash."),
				 errhint("Set \"restart_after_crash\" to off.")));
	if (!EnableHotStandby)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quorate cannot run with \"hot_standby\" off"),
				 errhint("Set \"hot_standby\" to on.")));
	if (max_wal_senders == 0)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quorate cannot run with \"max_wal_senders\" 0"),
				 errhint("Set \"max_wal_senders\" to at least twice the number of nodes.")));
	if (path == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no place for the control socket of quorate"),
				 errhint("Set \"quorate.control_socket\" to a path, or \"unix_socket_directories\" to a directory.")));
	if (strlen(path) >= sizeof(addr.sun_path))
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path of the control socket \"%s\" is too long (maximum %d bytes)",
						path, (int) sizeof(addr.sun_path) - 1),
				 errhint("Set \"quorate.control_socket\" to a shorter path, which may be relative to the data directory.")));
	if (XLogArchiveMode == ARCHIVE_MODE_ALWAYS)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("quorate cannot run with \"archive_mode\" \"always\""),
				 errdetail("Only a leader knows which segments belong to the history."),
				 errhint("Set \"archive_mode\" to on.")));
	if (!QuorumPageGate)
		ereport(WARNING,
				(errmsg("quorate runs with \"quorate.debug_page_gate\" off"),
				 errdetail("Data will be corrupted at a failover.")));
	if (!enableFsync)
		ereport(WARNING,
				(errmsg("quorate runs with \"fsync\" off"),
				 errdetail("What the quorum has acknowledged can be lost when machines lose power.")));
}

/* After a reload: what quorate_check_settings() would now refuse. */
void
quorate_warn_settings(void)
{
	if (!fullPageWrites)
		ereport(WARNING,
				(errmsg("\"full_page_writes\" was turned off while quorate is running"),
				 errhint("Set \"full_page_writes\" to on: this server will not start without it.")));
	if (restart_after_crash)
		ereport(WARNING,
				(errmsg("\"restart_after_crash\" was turned on while quorate is running"),
				 errhint("Set \"restart_after_crash\" to off: this server will not start with it.")));
}
