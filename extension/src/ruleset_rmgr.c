/*-------------------------------------------------------------------------
 *
 * ruleset_rmgr.c
 *	  Resource manager "quorate": the ruleset as a record of the log.
 *
 * One record type.  The leader writes one in each term, right behind the term
 * record, and one for each change of the rules.  A ruleset counts from the
 * position of its record on, so whoever recruits this server looks at the
 * records beyond the replay limit too (command_stream.c); redo, which never goes
 * beyond that limit, sees only committed ones and applies them.
 *
 * The id is the experimental one until one is reserved for us.  A server
 * cannot recover such a log without this library.
 *
 * Processes: insert in the control worker, redo in the startup process, desc
 * and identify anywhere.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "utils/memutils.h"

#define XLOG_QUORATE_RULESET	0x00

/* Main data of the record; the rule and the text follow, without zero byte. */
typedef struct xl_quorate_ruleset
{
	uint64		version;
	uint32		term;
	uint32		rulelen;
	uint32		textlen;
} xl_quorate_ruleset;

#define SizeOfRulesetRecord	(offsetof(xl_quorate_ruleset, textlen) + sizeof(uint32))

/*
 * Take a record apart.  The texts point into the record and aren't
 * terminated.  Returns false if it is some other record; a ruleset record
 * that makes no sense is an error, since going on would mean to go on under
 * rules that are not the cluster's.
 */
bool
quorate_ruleset_decode(XLogReaderState *record, RulesetId *id,
					   const char **rule, const char **text)
{
	xl_quorate_ruleset xlrec;
	uint32		len = XLogRecGetDataLen(record);

	if (XLogRecGetRmid(record) != RM_QUORATE_ID ||
		(XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_QUORATE_RULESET)
		return false;

	if (len >= SizeOfRulesetRecord)
		memcpy(&xlrec, XLogRecGetData(record), SizeOfRulesetRecord);
	if (len < SizeOfRulesetRecord ||
		xlrec.rulelen > RULE_MAX_TEXT || xlrec.textlen > QUORATE_MAX_TEXT ||
		len != SizeOfRulesetRecord + xlrec.rulelen + xlrec.textlen ||
		xlrec.version == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ruleset record at %X/%X makes no sense",
						LSN_FORMAT_ARGS(record->ReadRecPtr))));

	id->term = xlrec.term;
	id->version = xlrec.version;
	id->lsn = record->EndRecPtr;
	id->rulelen = xlrec.rulelen;
	id->textlen = xlrec.textlen;
	*rule = XLogRecGetData(record) + SizeOfRulesetRecord;
	*text = *rule + xlrec.rulelen;
	return true;
}

/* Write a ruleset into the log; returns the end of the record. */
XLogRecPtr
quorate_ruleset_insert(const Ruleset *ruleset)
{
	xl_quorate_ruleset xlrec = {
		.version = ruleset->id.version,
		.term = ruleset->id.term,
		.rulelen = ruleset->id.rulelen,
		.textlen = ruleset->id.textlen,
	};

	XLogBeginInsert();
	XLogRegisterData(&xlrec, SizeOfRulesetRecord);
	if (xlrec.rulelen > 0)
		XLogRegisterData(ruleset->rule, xlrec.rulelen);
	if (xlrec.textlen > 0)
		XLogRegisterData(ruleset->text, xlrec.textlen);
	return XLogInsert(RM_QUORATE_ID, XLOG_QUORATE_RULESET);
}

static void
ruleset_redo(XLogReaderState *record)
{
	RulesetId	id;
	const char *rule;
	const char *text;

	if (!quorate_ruleset_decode(record, &id, &rule, &text))
		elog(PANIC, "ruleset_redo: unknown op code %u",
			 (unsigned int) XLogRecGetInfo(record));
	if (quorate_ruleset_apply(&id, rule, text))
		ereport(LOG,
				(errmsg("applied ruleset %llu of term %u",
						(unsigned long long) id.version, id.term)));
}

static void
ruleset_desc(StringInfo buf, XLogReaderState *record)
{
	RulesetId	id;
	const char *rule;
	const char *text;

	if (quorate_ruleset_decode(record, &id, &rule, &text))
		appendStringInfo(buf, "term %u; version %llu; rule %.*s; text of %u bytes",
						 id.term, (unsigned long long) id.version,
						 (int) id.rulelen, rule, id.textlen);
}

static const char *
ruleset_identify(uint8 info)
{
	if ((info & ~XLR_INFO_MASK) == XLOG_QUORATE_RULESET)
		return "RULESET";
	return NULL;
}

static const RmgrData quorate_rmgr = {
	.rm_name = "quorate",
	.rm_redo = ruleset_redo,
	.rm_desc = ruleset_desc,
	.rm_identify = ruleset_identify,
};

void
quorate_register_rmgr(void)
{
	RegisterCustomRmgr(RM_QUORATE_ID, &quorate_rmgr);
}
