/*-------------------------------------------------------------------------
 *
 * report.c
 *	  Tell a client what its last transaction did to its session.
 *
 * For whoever lends server connections to clients and routes their requests,
 * three parameters, each reported in front of the ReadyForQuery of the same
 * response, and only where it was asked for:
 *
 *	quorate.last_commit_lsn		after a commit that wrote something: the end of
 *		the commit record, which the quorum has.  Reads that are to see it can
 *		wait for it on a follower (quorate.wait_for_lsn).
 *	quorate.last_read_lsn		after a transaction that wrote nothing: how far
 *		this server showed.  On a follower the end of replay; on a leader the
 *		highest end of a record that is known to be committed.  Reads that must
 *		not go back in time wait for it elsewhere.
 *	quorate.settings_changes	goes up when the transaction may have left a
 *		setting behind, by whatever means: then it's worth to look at
 *		quorate.session_settings().  The same for what no setting shows:
 *		temporary objects, session advisory locks, LISTEN, prepared statements,
 *		cursors with hold.
 *
 * Runs in client backends; no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "funcapi.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "libpq/protocol.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/tuplestore.h"

#define LAST_COMMIT_LSN		"quorate.last_commit_lsn"
#define LAST_READ_LSN		"quorate.last_read_lsn"
#define SETTINGS_CHANGES	"quorate.settings_changes"

PG_FUNCTION_INFO_V1(quorate_sql_session_settings);

static bool report_commit_lsn = false;
static bool report_read_lsn = false;
static bool report_settings = false;
static char *last_commit_lsn = NULL;
static char *last_read_lsn = NULL;
static int	settings_changes = 0;
static char *read_level = NULL;

/* Something has run that may leave behind what no setting shows. */
static bool left_behind = false;

static void
report_lsn(const char *parameter, XLogRecPtr lsn)
{
	char		text[MAXFNAMELEN];

	snprintf(text, sizeof(text), "%X/%X", LSN_FORMAT_ARGS(lsn));
	SetConfigOption(parameter, text, PGC_INTERNAL, PGC_S_OVERRIDE);
}

/* Returns whether this transaction has written something. */
static bool
report_commit(void)
{
	static XLogRecPtr last = InvalidXLogRecPtr;

	/*
	 * A transaction that merely pruned pages hasn't waited for anything, and
	 * nobody needs to wait for it.
	 */
	if (XactLastCommitEnd == InvalidXLogRecPtr || XactLastCommitEnd == last ||
		!QuorumIsCommitted(XactLastCommitEnd))
		return false;
	last = XactLastCommitEnd;
	if (report_commit_lsn)
		report_lsn(LAST_COMMIT_LSN, last);
	return true;
}

/*
 * Up to here everything committed is visible to new snapshots, and nothing
 * beyond.
 *
 * A leader must not take its commit LSN for this: it counts bytes and may lie
 * within a record.  If that record was never completed, a later leader writes
 * others in its place, and an LSN of theirs is below the commit LSN here, too.
 * The end of a committed record is the same on every timeline.
 */
XLogRecPtr
quorate_visible_here(void)
{
	QuorumInfo	info;

	if (RecoveryInProgress())
		return GetXLogReplayRecPtr(NULL);
	QuorumGetInfo(&info);
	return Max(info.termStart, info.committedRecord);
}

static void
report_read(void)
{
	static XLogRecPtr last = InvalidXLogRecPtr;
	XLogRecPtr	visible = quorate_visible_here();

	if (visible > last)
	{
		last = visible;
		report_lsn(LAST_READ_LSN, last);
	}
}

/*
 * A transaction is about to read.  One that the client has begun may show its
 * contents and then be rolled back, which is no occasion to report anything;
 * so that one reports at once.  (The rollback brings back the value before:
 * whoever relies on it takes the highest he has seen.)
 */
void
quorate_note_read(void)
{
	if (report_read_lsn && IsTransactionBlock())
		report_read();
}

static void
report_settings_changes(void)
{
	char		text[12];

	snprintf(text, sizeof(text), "%d", settings_changes == INT_MAX ? 1 : settings_changes + 1);
	SetConfigOption(SETTINGS_CHANGES, text, PGC_INTERNAL, PGC_S_OVERRIDE);
}

/* A function is about to be called, from wherever. */
void
quorate_note_function(Oid function)
{
	switch (function)
	{
		case F_PG_ADVISORY_LOCK_INT8:
		case F_PG_ADVISORY_LOCK_INT4_INT4:
		case F_PG_ADVISORY_LOCK_SHARED_INT8:
		case F_PG_ADVISORY_LOCK_SHARED_INT4_INT4:
		case F_PG_TRY_ADVISORY_LOCK_INT8:
		case F_PG_TRY_ADVISORY_LOCK_INT4_INT4:
		case F_PG_TRY_ADVISORY_LOCK_SHARED_INT8:
		case F_PG_TRY_ADVISORY_LOCK_SHARED_INT4_INT4:
			left_behind = true;
			break;
		default:
			break;
	}
}

/* The same for a utility statement. */
void
quorate_note_utility(Node *statement)
{
	if (IsA(statement, ListenStmt) || IsA(statement, PrepareStmt) ||
		(IsA(statement, DeclareCursorStmt) &&
		 (castNode(DeclareCursorStmt, statement)->options & CURSOR_OPT_HOLD) != 0))
		left_behind = true;
}

/*
 * Locks and prepared statements outlive a rollback, but a parameter set while
 * one is under way goes back with it: the client is told directly.
 */
static void
report_after_rollback(void)
{
	StringInfoData message;

	if (whereToSendOutput != DestRemote || proc_exit_inprogress)
		return;
	pq_beginmessage(&message, PqMsg_ParameterStatus);
	pq_sendstring(&message, SETTINGS_CHANGES);
	pq_sendstring(&message, "0");
	pq_endmessage(&message);
}

static void
report_after_transaction(XactEvent event, void *arg)
{
	static uint64 seen = 0;
	bool		changed;

	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			changed = guc_session_changes != seen || left_behind ||
				(MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) != 0;
			left_behind = false;
			if (event == XACT_EVENT_COMMIT && (report_commit_lsn || report_read_lsn) &&
				!report_commit() && report_read_lsn)
				report_read();
			if (changed && report_settings)
				report_settings_changes();
			seen = guc_session_changes; /* ours don't count */
			break;
		case XACT_EVENT_ABORT:
			seen = guc_session_changes; /* undone */
			if (left_behind && report_settings)
				report_after_rollback();
			left_behind = false;
			break;
		default:
			break;
	}
}

/*
 * What this session has set and that lasts.  In contrast to pg_settings with
 * parameters that no module has defined.  (name, value)
 */
Datum
quorate_sql_session_settings(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	struct config_generic **all;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	all = get_guc_variables(&n);
	for (int i = 0; i < n; i++)
	{
		struct config_generic *setting = all[i];
		Datum		values[2];
		bool		nulls[2] = {false, false};

		if (setting->source != PGC_S_SESSION || !ConfigOptionIsVisible(setting))
			continue;
		values[0] = CStringGetTextDatum(setting->name);
		values[1] = CStringGetTextDatum(ShowGUCOption(setting, false));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	pfree(all);
	return (Datum) 0;
}

/* leader, session, eventual, bounded(<time>) */
static bool
check_read_level(char **newval, void **extra, GucSource source)
{
	static const char prefix[] = "bounded(";
	const size_t len = strlen(*newval);
	char		time[32];
	const char *hint = NULL;
	int			ms;

	if (strcmp(*newval, "leader") == 0 || strcmp(*newval, "session") == 0 ||
		strcmp(*newval, "eventual") == 0)
		return true;
	if (strncmp(*newval, prefix, strlen(prefix)) == 0 && (*newval)[len - 1] == ')' &&
		len - strlen(prefix) <= sizeof(time))
	{
		strlcpy(time, *newval + strlen(prefix), len - strlen(prefix));
		if (parse_int(time, &ms, GUC_UNIT_MS, &hint) && ms >= 1 && ms <= 86400000)
			return true;
	}
	GUC_check_errdetail("Levels are \"leader\", \"session\", \"bounded(TIME)\" with a time from 1 ms to 1 day, and \"eventual\".");
	return false;
}

void
quorate_install_report(void)
{
	DefineCustomBoolVariable("quorate.report_commit_lsn",
							 "Reports the LSN of each commit to the client.",
							 "As parameter \"quorate.last_commit_lsn\", before the server is ready for the next query.",
							 &report_commit_lsn, false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable(LAST_COMMIT_LSN,
							   "LSN of the last commit of this session that wrote something.",
							   "Kept while \"quorate.report_commit_lsn\" is on.",
							   &last_commit_lsn, "",
							   PGC_INTERNAL, GUC_REPORT | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.report_read_lsn",
							 "Reports to the client how far the server showed to a transaction that wrote nothing.",
							 "As parameter \"quorate.last_read_lsn\", before the server is ready for the next query.",
							 &report_read_lsn, false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable(LAST_READ_LSN,
							   "How far the server showed to this session.",
							   "Kept while \"quorate.report_read_lsn\" is on.",
							   &last_read_lsn, "",
							   PGC_INTERNAL, GUC_REPORT | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("quorate.report_settings",
							 "Reports to the client when a transaction may have left settings behind.",
							 "As parameter \"quorate.settings_changes\", before the server is ready for the next query.",
							 &report_settings, false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable(SETTINGS_CHANGES,
							"How many transactions of this session may have left settings behind.",
							"Kept while \"quorate.report_settings\" is on.",
							&settings_changes, 0, 0, INT_MAX,
							PGC_INTERNAL, GUC_REPORT | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							NULL, NULL, NULL);
	DefineCustomStringVariable("quorate.read",
							   "Where reads of this session may be answered.",
							   "For whoever routes them: \"leader\"; \"session\" (wherever what it has seen and written is visible); \"bounded(TIME)\" (no older than that); \"eventual\".",
							   &read_level, "leader",
							   PGC_USERSET, GUC_REPORT,
							   check_read_level, NULL, NULL);
	RegisterXactCallback(report_after_transaction, NULL);
}
