/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  SQL functions (docs/sql-interface.md).
 *
 * Run in client backends, read only.  Where the library was not loaded by
 * shared_preload_libraries, quorate_shared is NULL: status() says so, the
 * functions about rules as such work, all others raise an error.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_PEERS			64
#define MIN_WAIT_MS			1
#define MAX_WAIT_MS			10

PG_FUNCTION_INFO_V1(quorate_sql_status);
PG_FUNCTION_INFO_V1(quorate_sql_followers);
PG_FUNCTION_INFO_V1(quorate_sql_ruleset);
PG_FUNCTION_INFO_V1(quorate_sql_rule);
PG_FUNCTION_INFO_V1(quorate_sql_commit_lsn);
PG_FUNCTION_INFO_V1(quorate_sql_term);
PG_FUNCTION_INFO_V1(quorate_sql_is_committed);
PG_FUNCTION_INFO_V1(quorate_sql_wait_for_lsn);
PG_FUNCTION_INFO_V1(quorate_sql_staleness);
PG_FUNCTION_INFO_V1(quorate_sql_validate_rule);
PG_FUNCTION_INFO_V1(quorate_sql_eval_rule);
PG_FUNCTION_INFO_V1(quorate_sql_can_fulfil);
PG_FUNCTION_INFO_V1(quorate_sql_can_block);

static void
require_enabled(void)
{
	if (quorate_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("quorate is not enabled"),
				 errhint("Load it by \"shared_preload_libraries\".")));
}

static TupleDesc
row_type(FunctionCallInfo fcinfo)
{
	TupleDesc	tupdesc;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(tupdesc);
}

static void
set_lsn(Datum *value, bool *isnull, XLogRecPtr lsn)
{
	*value = LSNGetDatum(lsn);
	*isnull = lsn == InvalidXLogRecPtr;
}

static void
set_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = text == NULL || text[0] == '\0';
	*value = *isnull ? (Datum) 0 : CStringGetTextDatum(text);
}

static Datum
text_array(char **items, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		datums[i] = CStringGetTextDatum(items[i]);
	return PointerGetDatum(construct_array_builtin(datums, n, TEXTOID));
}

static bool
leads(const QuorumInfo *info)
{
	return info->state == QUORUM_CANDIDATE || info->state == QUORUM_ELECTED ||
		info->state == QUORUM_LEADER;
}

/* One row, whatever the server is. */
Datum
quorate_sql_status(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc = row_type(fcinfo);
	Datum		values[19] = {0};
	bool		nulls[19];
	QuorumInfo	info;
	TimeLineID	tli;
	XLogRecPtr	flushed;
	Ruleset    *applied;
	char	   *rule = NULL;
	char	   *joint[QUORATE_MAX_JOINT];
	int			njoint;
	int			i = 0;

	if (tupdesc->natts != lengthof(values))
		elog(ERROR, "the SQL definition of quorate.status() does not fit this library");
	memset(nulls, true, sizeof(nulls));
	values[0] = BoolGetDatum(quorate_shared != NULL);
	nulls[0] = false;
	if (quorate_shared == NULL)
		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));

	memset(nulls, false, sizeof(nulls));
	QuorumGetInfo(&info);
	quorate_position(&info, &tli, &flushed);
	applied = quorate_ruleset_copy(&quorate_shared->applied);
	njoint = leads(&info) ? quorate_rules_text(info.term, &rule, joint) : 0;

	i = 1;
	set_text(&values[i], &nulls[i], quorate_node_id);
	i++;
	values[i++] = CStringGetTextDatum(quorate_state_name(&info, false));
	values[i++] = Int64GetDatum(info.term);
	values[i++] = Int64GetDatum(info.fenceTerm);
	values[i++] = BoolGetDatum(RecoveryInProgress());
	set_text(&values[i], &nulls[i], leads(&info) ? quorate_node_id : info.leader);
	i++;
	set_lsn(&values[i], &nulls[i], info.commitLsn);
	i++;
	set_lsn(&values[i], &nulls[i], flushed);
	i++;
	set_lsn(&values[i], &nulls[i],
			RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : flushed);
	i++;
	set_lsn(&values[i], &nulls[i], info.termStart);
	i++;
	set_text(&values[i], &nulls[i], rule);
	i++;
	values[i++] = text_array(joint, Max(njoint, 0));
	nulls[i] = applied == NULL;
	values[i++] = Int64GetDatum(applied ? applied->id.version : 0);
	values[i++] = Int32GetDatum(info.nwaiting);
	values[i++] = Int64GetDatum(info.nwaits);
	values[i++] = Int64GetDatum(info.npagewaits);
	values[i++] = BoolGetDatum(quorate_is_quiesced());
	values[i++] = BoolGetDatum(info.selfSufficient);
	Assert(i == lengthof(values));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

Datum
quorate_sql_followers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	QuorumPeer *peers;
	int			npeers;

	InitMaterializedSRF(fcinfo, 0);
	if (quorate_shared == NULL)
		return (Datum) 0;
	peers = palloc(sizeof(QuorumPeer) * MAX_PEERS);
	npeers = QuorumGetPeers(peers, MAX_PEERS);
	for (int i = 0; i < npeers; i++)
	{
		Datum		values[8] = {0};
		bool		nulls[8] = {0};

		set_text(&values[0], &nulls[0], peers[i].name);
		values[1] = BoolGetDatum(peers[i].member);
		values[2] = Int32GetDatum(peers[i].pid);
		values[3] = Int64GetDatum(peers[i].tli);
		nulls[3] = peers[i].tli == 0;
		set_lsn(&values[4], &nulls[4], peers[i].write);
		set_lsn(&values[5], &nulls[5], peers[i].flush);
		set_lsn(&values[6], &nulls[6], peers[i].apply);
		values[7] = TimestampTzGetDatum(peers[i].replyTime);
		nulls[7] = peers[i].replyTime == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The applied ruleset; no row if there's none. */
Datum
quorate_sql_ruleset(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Ruleset    *applied;
	Datum		values[5];
	bool		nulls[5] = {0};

	InitMaterializedSRF(fcinfo, 0);
	if (quorate_shared == NULL)
		return (Datum) 0;
	applied = quorate_ruleset_copy(&quorate_shared->applied);
	if (applied == NULL)
		return (Datum) 0;
	values[0] = Int64GetDatum(applied->id.version);
	values[1] = Int64GetDatum(applied->id.term);
	values[2] = LSNGetDatum(applied->id.lsn);
	values[3] = CStringGetTextDatum(applied->rule);
	values[4] = CStringGetTextDatum(applied->text);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* The rule in force; NULL where there's none, as on a follower. */
Datum
quorate_sql_rule(PG_FUNCTION_ARGS)
{
	QuorumInfo	info;
	char	   *rule;
	char	   *joint[QUORATE_MAX_JOINT];

	require_enabled();
	QuorumGetInfo(&info);
	if (!leads(&info) || quorate_rules_text(info.term, &rule, joint) < 0)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(rule));
}

Datum
quorate_sql_commit_lsn(PG_FUNCTION_ARGS)
{
	QuorumInfo	info;

	require_enabled();
	QuorumGetInfo(&info);
	if (info.commitLsn == InvalidXLogRecPtr)
		PG_RETURN_NULL();
	PG_RETURN_LSN(info.commitLsn);
}

/* NULL while this server has no grant. */
Datum
quorate_sql_term(PG_FUNCTION_ARGS)
{
	QuorumInfo	info;

	require_enabled();
	QuorumGetInfo(&info);
	if (info.term == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(info.term);
}

Datum
quorate_sql_is_committed(PG_FUNCTION_ARGS)
{
	QuorumInfo	info;

	require_enabled();
	QuorumGetInfo(&info);
	PG_RETURN_BOOL(PG_GETARG_LSN(0) <= info.commitLsn);
}

/*
 * Wait until "lsn" is visible here: applied on a follower, committed on the
 * leader.  Not to be in time is an error, never a silent success.
 */
Datum
quorate_sql_wait_for_lsn(PG_FUNCTION_ARGS)
{
	static uint32 wait_event = 0;
	XLogRecPtr	lsn = PG_GETARG_LSN(0);
	Interval   *timeout = PG_GETARG_INTERVAL_P(1);
	TimestampTz deadline;
	long		pause = MIN_WAIT_MS;

	require_enabled();
	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("QuorateWaitForLsn");
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   IntervalPGetDatum(timeout)));
	while (quorate_visible_here() < lsn)
	{
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_QUORATE_NOT_IN_TIME),
					 errmsg("LSN %X/%X did not become visible on this server in time",
							LSN_FORMAT_ARGS(lsn)),
					 errdetail("Visible is %X/%X.", LSN_FORMAT_ARGS(quorate_visible_here()))));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 pause, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause = Min(pause * 2, MAX_WAIT_MS);
	}
	PG_RETURN_VOID();
}

/*
 * How old may what is visible here be?  NULL if that is unknown.
 */
Datum
quorate_sql_staleness(PG_FUNCTION_ARGS)
{
	int64		age;
	Interval   *result;

	require_enabled();
	age = QuorumStaleness();
	if (age < 0)
		PG_RETURN_NULL();
	result = palloc0(sizeof(Interval));
	result->time = age;
	PG_RETURN_INTERVAL_P(result);
}

/* ------------------------------------------------------------------------
 * Rules as such
 * ------------------------------------------------------------------------
 */

/* (valid, class, position, message): position counts characters from 1 */
Datum
quorate_sql_validate_rule(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc = row_type(fcinfo);
	text	   *source = PG_GETARG_TEXT_PP(0);
	Rule	   *rule = palloc(sizeof(Rule));
	RuleError	error;
	bool		valid;
	Datum		values[4] = {0};
	bool		nulls[4] = {0};

	valid = rule_parse(VARDATA_ANY(source), VARSIZE_ANY_EXHDR(source), rule, &error);
	values[0] = BoolGetDatum(valid);
	values[1] = CStringGetTextDatum(rule_error_name(error.class));
	values[2] = Int32GetDatum((int32) error.at + 1);
	nulls[2] = valid;
	set_text(&values[3], &nulls[3], valid ? NULL : error.message);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

static Rule *
rule_arg(text *source)
{
	Rule	   *rule = palloc(sizeof(Rule));
	RuleError	error;

	if (!rule_parse(VARDATA_ANY(source), VARSIZE_ANY_EXHDR(source), rule, &error))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid durability rule: %s", error.message),
				 errdetail("At character %d.", (int) error.at + 1)));
	return rule;
}

static int
array_arg(ArrayType *array, Datum **datums)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	bool	   *nulls;
	int			n;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign,
					  datums, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the array must not contain nulls")));
	}
	return n;
}

static const char **
nodes_arg(ArrayType *array, int *n)
{
	Datum	   *datums;
	const char **nodes;

	*n = array_arg(array, &datums);
	nodes = palloc(sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		nodes[i] = TextDatumGetCString(datums[i]);
	return nodes;
}

typedef struct Flushed
{
	int			n;
	const char **nodes;
	Datum	   *lsns;
} Flushed;

static uint64_t
flushed_of(const char *id, void *arg)
{
	const Flushed *flushed = arg;

	for (int i = 0; i < flushed->n; i++)
	{
		if (strcmp(flushed->nodes[i], id) == 0)
			return DatumGetLSN(flushed->lsns[i]);
	}
	return InvalidXLogRecPtr;
}

Datum
quorate_sql_eval_rule(PG_FUNCTION_ARGS)
{
	Rule	   *rule = rule_arg(PG_GETARG_TEXT_PP(0));
	Flushed		flushed;

	flushed.nodes = nodes_arg(PG_GETARG_ARRAYTYPE_P(1), &flushed.n);
	if (array_arg(PG_GETARG_ARRAYTYPE_P(2), &flushed.lsns) != flushed.n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("there must be as many LSNs as nodes")));
	PG_RETURN_LSN(rule_commit_lsn(rule, flushed_of, &flushed));
}

Datum
quorate_sql_can_fulfil(PG_FUNCTION_ARGS)
{
	Rule	   *rule = rule_arg(PG_GETARG_TEXT_PP(0));
	int			n;
	const char **nodes = nodes_arg(PG_GETARG_ARRAYTYPE_P(1), &n);

	PG_RETURN_BOOL(rule_can_fulfil(rule, n, nodes));
}

Datum
quorate_sql_can_block(PG_FUNCTION_ARGS)
{
	Rule	   *rule = rule_arg(PG_GETARG_TEXT_PP(0));
	int			n;
	const char **nodes = nodes_arg(PG_GETARG_ARRAYTYPE_P(1), &n);

	PG_RETURN_BOOL(rule_can_block(rule, n, nodes));
}
