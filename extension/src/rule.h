/*-------------------------------------------------------------------------
 *
 * rule.h
 *	  Durability rules: monotone threshold trees over node ids.
 *
 *	  rule := id | k "(" rule {"," rule} ")"
 *
 * Pure C without backend headers: the same file is linked into the unit
 * tests, and consensus/testdata/rules.txt holds it to the same answers as
 * consensus/src/rule.ts.
 *
 * A parsed rule is flat: no pointers, so it may lie in shared memory and be
 * copied, and nothing is allocated when it is evaluated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUORATE_RULE_H
#define QUORATE_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RULE_MAX_NODES		1000	/* leaves and thresholds together */
#define RULE_MAX_DEPTH		16
#define RULE_NODE_ID_LEN	64		/* with the terminating zero */

/* the longest text of a rule that can be parsed, without terminating zero */
#define RULE_MAX_TEXT		(RULE_MAX_NODES * (RULE_NODE_ID_LEN + 8))

typedef struct RuleNode
{
	uint16_t	k;				/* threshold, or 0: a leaf */
	uint16_t	n;				/* threshold: number of children; leaf: index
								 * of its node id */
} RuleNode;

typedef struct Rule
{
	uint16_t	nnodes;
	uint16_t	nids;
	uint16_t	idbytes;		/* used of "ids" */
	RuleNode	nodes[RULE_MAX_NODES];	/* a parent precedes its children */
	uint16_t	idoffset[RULE_MAX_NODES];	/* where each id begins */
	char		ids[RULE_MAX_NODES * RULE_NODE_ID_LEN];
} Rule;

typedef enum RuleErrorClass
{
	RULE_OK = 0,
	RULE_SYNTAX,				/* not of the grammar */
	RULE_THRESHOLD,				/* k is 0 or above the number of children */
	RULE_DEPTH,					/* over the limit */
	RULE_SIZE,					/* over the limit */
} RuleErrorClass;

typedef struct RuleError
{
	RuleErrorClass class;
	size_t		at;				/* offset into the text */
	char		message[160];
} RuleError;

/* Highest position known of a node; 0 if none. */
typedef uint64_t (*RuleLeaf) (const char *id, void *arg);

extern bool rule_parse(const char *text, size_t len, Rule *rule, RuleError *error);

/* "rule" must have been parsed. Returns the length; truncates like snprintf. */
extern size_t rule_format(const Rule *rule, char *buf, size_t size);

extern const char *rule_error_name(RuleErrorClass class);

extern bool rule_is_node_id(const char *text, size_t len);

/* The n-th different node id, in the order of the text. */
extern const char *rule_id(const Rule *rule, int n);

/* The bytes of the struct that matter: copy only these. */
extern size_t rule_copy_size(const Rule *rule);

extern void rule_copy(Rule *to, const Rule *from);

/* The highest position that the rule calls durable. */
extern uint64_t rule_commit_lsn(const Rule *rule, RuleLeaf leaf, void *arg);

/* Could these nodes alone make something durable? */
extern bool rule_can_fulfil(const Rule *rule, int nnodes, const char *const *nodes);

/* If these nodes refuse, can't the others make anything durable? */
extern bool rule_can_block(const Rule *rule, int nnodes, const char *const *nodes);

#endif							/* QUORATE_RULE_H */
