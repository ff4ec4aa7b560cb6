/*-------------------------------------------------------------------------
 *
 * report.c
 *	  Tell a client the LSN of its last commit.
 *
 * A session that set "quorate.report_commit_lsn" gets the parameter
 * "quorate.last_commit_lsn" reported after each commit that wrote something:
 * whoever routes its reads can have them wait on a follower until that LSN is
 * visible there (quorate.wait_for_lsn).  The report rides in front of the
 * ReadyForQuery of the same response.
 *
 * The LSN is the end of the commit record: when the commit has returned, it
 * is committed by the quorum.
 *
 * Runs in client backends; no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/guc.h"

#define LAST_COMMIT_LSN		"quorate.last_commit_lsn"

static bool report_commit_lsn = false;
static char *last_commit_lsn = NULL;

static void
report_after_commit(XactEvent event, void *arg)
{
	static XLogRecPtr reported = InvalidXLogRecPtr;
	char		text[MAXFNAMELEN];

	if (event != XACT_EVENT_COMMIT || !report_commit_lsn)
		return;
	if (XactLastCommitEnd == InvalidXLogRecPtr || XactLastCommitEnd == reported)
		return;					/* nothing written */

	/*
	 * A transaction that merely pruned pages hasn't waited for anything, and
	 * nobody needs to wait for it.
	 */
	if (!QuorumIsCommitted(XactLastCommitEnd))
		return;

	snprintf(text, sizeof(text), "%X/%X", LSN_FORMAT_ARGS(XactLastCommitEnd));
	SetConfigOption(LAST_COMMIT_LSN, text, PGC_INTERNAL, PGC_S_OVERRIDE);
	reported = XactLastCommitEnd;
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
	RegisterXactCallback(report_after_commit, NULL);
}
