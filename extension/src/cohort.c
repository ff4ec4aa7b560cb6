/*-------------------------------------------------------------------------
 *
 * cohort.c
 *	  The rules in force: which commit LSN do they yield?
 *
 * The control worker installs the rules of a term before it asks for the
 * election, so there is never an elected server without them.  Every process
 * that learns of an acknowledgement evaluates them: the commit LSN is what
 * the rule and each joint rule call durable, that is the lowest answer.
 *
 * Lock: quorate_shared->lock, shared to evaluate, exclusive to change.  The
 * functions of quorum.h may evaluate, so they're called without it.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

typedef struct Leaves
{
	XLogRecPtr	local;
	int			npeers;
	const QuorumPeer *peers;
} Leaves;

/*
 * What one node has flushed.  A node that reconnected may be listed twice:
 * whoever replied last speaks for it.
 */
static uint64_t
flushed_by(const char *id, void *arg)
{
	const Leaves *leaves = arg;
	const QuorumPeer *latest = NULL;

	if (strcmp(id, quorate_node_id) == 0)
		return leaves->local;
	for (int i = 0; i < leaves->npeers; i++)
	{
		const QuorumPeer *peer = &leaves->peers[i];

		if (strcmp(id, peer->name) == 0 &&
			(latest == NULL || peer->replyTime > latest->replyTime))
			latest = peer;
	}
	return latest ? latest->flush : InvalidXLogRecPtr;
}

static XLogRecPtr
evaluate_locked(Leaves *leaves)
{
	const RulesInForce *rules = &quorate_shared->rules;
	XLogRecPtr	result = rule_commit_lsn(&rules->rule, flushed_by, leaves);

	for (int i = 0; i < rules->njoint && result != InvalidXLogRecPtr; i++)
	{
		XLogRecPtr	joint = rule_commit_lsn(&rules->joint[i], flushed_by, leaves);

		result = Min(result, joint);
	}
	return result;
}

/*
 * quorum_routine.evaluate: any process, possibly in a critical section, so
 * nothing here allocates or fails.
 */
XLogRecPtr
quorate_evaluate(TimeLineID tli, XLogRecPtr local,
				 int npeers, const QuorumPeer *peers)
{
	Leaves		leaves = {.local = local, .npeers = npeers, .peers = peers};
	XLogRecPtr	result = InvalidXLogRecPtr;

	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	if (quorate_shared->rules.term == tli)
		result = evaluate_locked(&leaves);
	LWLockRelease(quorate_shared->lock);

	/*
	 * Times instead of positions, and the rule needs nobody but us: that proves
	 * something for now.  It must not outlast the rule.
	 */
	if (local == PG_UINT64_MAX && result == PG_UINT64_MAX)
		result = QuorumClock();
	return result;
}

/* After a change: may local flushes advance the commit LSN by themselves? */
static void
rules_changed(void)
{
	Leaves		leaves = {.local = 1, .npeers = 0, .peers = NULL};
	bool		alone;

	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	alone = quorate_shared->rules.term != 0 && evaluate_locked(&leaves) > 0;
	LWLockRelease(quorate_shared->lock);

	QuorumSetSelfSufficient(alone);
}

/* The rules of a term, before its election.  Term 0: no rules. */
void
quorate_install_rules(uint32 term, const Rule *rule, int njoint, Rule *const *joint)
{
	RulesInForce *rules = &quorate_shared->rules;

	Assert(njoint <= QUORATE_MAX_JOINT);

	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	rules->term = term;
	rules->njoint = njoint;
	if (term != 0)
		rule_copy(&rules->rule, rule);
	for (int i = 0; i < njoint; i++)
		rule_copy(&rules->joint[i], joint[i]);
	LWLockRelease(quorate_shared->lock);

	rules_changed();
}

/*
 * From now on "rule", and until quorate_drop_joint() what is in force now
 * too.  Callers make sure that no ruleset is pending, so no joint rules.
 */
void
quorate_add_rule(const Rule *rule)
{
	RulesInForce *rules = &quorate_shared->rules;

	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	if (rules->term == 0 || rules->njoint != 0)
		elog(PANIC, "durability rules changed while a change is pending");
	rule_copy(&rules->joint[0], &rules->rule);
	rules->njoint = 1;
	rule_copy(&rules->rule, rule);
	LWLockRelease(quorate_shared->lock);

	rules_changed();
}

/* The ruleset record is durable under all rules: the new one alone counts. */
void
quorate_drop_joint(void)
{
	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	quorate_shared->rules.njoint = 0;
	LWLockRelease(quorate_shared->lock);

	rules_changed();
	QuorumEvaluate();
}

uint32
quorate_rules_term(void)
{
	uint32		term;

	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	term = quorate_shared->rules.term;
	LWLockRelease(quorate_shared->lock);
	return term;
}

static char *
rule_text(const Rule *rule)
{
	char	   *text = palloc(RULE_MAX_TEXT + 1);

	rule_format(rule, text, RULE_MAX_TEXT + 1);
	return text;
}

/*
 * Texts of the rules in force for "term": returns the number of joint rules,
 * or -1 if there are no rules for it.  "joint" has room for
 * QUORATE_MAX_JOINT.
 */
int
quorate_rules_text(uint32 term, char **rule, char **joint)
{
	RulesInForce *rules = &quorate_shared->rules;
	int			njoint = -1;
	Rule	   *copy = palloc(sizeof(Rule) * (1 + QUORATE_MAX_JOINT));

	/* Copy under the lock, and allocate texts after it. */
	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	if (term != 0 && rules->term == term)
	{
		njoint = rules->njoint;
		rule_copy(&copy[0], &rules->rule);
		for (int i = 0; i < njoint; i++)
			rule_copy(&copy[i + 1], &rules->joint[i]);
	}
	LWLockRelease(quorate_shared->lock);

	if (njoint >= 0)
	{
		*rule = rule_text(&copy[0]);
		for (int i = 0; i < njoint; i++)
			joint[i] = rule_text(&copy[i + 1]);
	}
	pfree(copy);
	return njoint;
}
