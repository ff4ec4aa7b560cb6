/*-------------------------------------------------------------------------
 *
 * rule.c
 *	  Durability rules: parse, format, evaluate.  See rule.h.
 *
 * The nodes are stored parent first.  Evaluation walks the array backwards
 * with a stack of values: a leaf pushes one, a threshold replaces the values
 * of its children by the k-th largest of them.  The stack needs no more room
 * than there are nodes, so evaluation takes 8 kB of the C stack, never fails
 * and costs O(n log n) at worst.
 *
 * No locks, no process: whoever shares a Rule protects it.
 *
 *-------------------------------------------------------------------------
 */
#include "rule.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct Parser
{
	const char *text;
	size_t		len;
	size_t		at;
	Rule	   *rule;
	RuleError  *error;
} Parser;

#if defined(__GNUC__)
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#else
#define PRINTF_LIKE(f, a)
#endif

static bool parse_rule(Parser *p, int depth);
static bool refuse(Parser *p, RuleErrorClass class, size_t at,
				   const char *format,...) PRINTF_LIKE(4, 5);

const char *
rule_error_name(RuleErrorClass class)
{
	switch (class)
	{
		case RULE_OK:
			return "ok";
		case RULE_SYNTAX:
			return "syntax";
		case RULE_THRESHOLD:
			return "threshold";
		case RULE_DEPTH:
			return "depth";
		case RULE_SIZE:
			return "size";
	}
	return "unknown";
}

static bool
is_letter(char c)
{
	return c >= 'a' && c <= 'z';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_token(char c)
{
	return is_letter(c) || is_digit(c) || c == '_' || c == '-';
}

bool
rule_is_node_id(const char *text, size_t len)
{
	if (len < 1 || len >= RULE_NODE_ID_LEN || !is_letter(text[0]))
		return false;
	for (size_t i = 1; i < len; i++)
	{
		if (!is_token(text[i]))
			return false;
	}
	return true;
}

static bool
refuse(Parser *p, RuleErrorClass class, size_t at, const char *format,...)
{
	va_list		args;

	p->error->class = class;
	p->error->at = at;
	va_start(args, format);
	vsnprintf(p->error->message, sizeof(p->error->message), format, args);
	va_end(args);
	return false;
}

/* Index of the node id, which is added if it's new. */
static int
intern(Rule *rule, const char *id, size_t len)
{
	char	   *to;

	for (int i = 0; i < rule->nids; i++)
	{
		const char *known = rule->ids + rule->idoffset[i];

		if (strncmp(known, id, len) == 0 && known[len] == '\0')
			return i;
	}

	/* There's room: no more ids than nodes, and none is longer. */
	to = rule->ids + rule->idbytes;
	memcpy(to, id, len);
	to[len] = '\0';
	rule->idoffset[rule->nids] = rule->idbytes;
	rule->idbytes += len + 1;
	return rule->nids++;
}

static bool
parse_threshold(Parser *p, int self, size_t start, size_t toklen, int depth)
{
	const char *token = p->text + start;
	int			nchildren = 0;
	int			k = 0;

	for (size_t i = 0; i < toklen; i++)
	{
		if (!is_digit(token[i]) || (i == 0 && token[i] == '0' && toklen > 1))
			return refuse(p, RULE_SYNTAX, start, "\"%.*s\" is no threshold",
						  toklen > 64 ? 64 : (int) toklen, token);
	}

	do
	{
		p->at++;				/* the "(" or "," */
		if (!parse_rule(p, depth + 1))
			return false;
		nchildren++;
	} while (p->at < p->len && p->text[p->at] == ',');

	if (p->at >= p->len || p->text[p->at] != ')')
		return refuse(p, RULE_SYNTAX, p->at, "expected \",\" or \")\"");
	p->at++;

	if (toklen > 4)
		k = RULE_MAX_NODES + 1;
	else
	{
		for (size_t i = 0; i < toklen; i++)
			k = k * 10 + (token[i] - '0');
	}
	if (k < 1 || k > nchildren)
		return refuse(p, RULE_THRESHOLD, start, "threshold %.*s of %d",
					  toklen > 64 ? 64 : (int) toklen, token, nchildren);

	p->rule->nodes[self].k = k;
	p->rule->nodes[self].n = nchildren;
	return true;
}

static bool
parse_rule(Parser *p, int depth)
{
	size_t		start = p->at;
	size_t		toklen;
	int			self;

	if (depth > RULE_MAX_DEPTH)
		return refuse(p, RULE_DEPTH, start, "a rule is at most %d levels deep",
					  RULE_MAX_DEPTH);
	if (p->rule->nnodes >= RULE_MAX_NODES)
		return refuse(p, RULE_SIZE, start, "a rule has at most %d nodes and thresholds",
					  RULE_MAX_NODES);
	self = p->rule->nnodes++;

	while (p->at < p->len && is_token(p->text[p->at]))
		p->at++;
	toklen = p->at - start;
	if (toklen == 0)
		return refuse(p, RULE_SYNTAX, start, "expected a node id or a threshold");

	if (p->at < p->len && p->text[p->at] == '(')
		return parse_threshold(p, self, start, toklen, depth);

	if (!rule_is_node_id(p->text + start, toklen))
		return refuse(p, RULE_SYNTAX, start, "\"%.*s\" is no node id",
					  toklen > 64 ? 64 : (int) toklen, p->text + start);
	p->rule->nodes[self].k = 0;
	p->rule->nodes[self].n = intern(p->rule, p->text + start, toklen);
	return true;
}

/*
 * Parse "len" bytes of text.  On failure *rule has no defined contents and
 * *error says what is wrong where.
 */
bool
rule_parse(const char *text, size_t len, Rule *rule, RuleError *error)
{
	Parser		p = {.text = text, .len = len, .at = 0, .rule = rule, .error = error};

	rule->nnodes = 0;
	rule->nids = 0;
	rule->idbytes = 0;
	error->class = RULE_OK;
	error->at = 0;
	error->message[0] = '\0';

	if (!parse_rule(&p, 1))
		return false;
	if (p.at != len)
	{
		unsigned char c = (unsigned char) text[p.at];

		if (c > 0x20 && c < 0x7f)
			return refuse(&p, RULE_SYNTAX, p.at, "unexpected \"%c\"", c);
		return refuse(&p, RULE_SYNTAX, p.at, "unexpected byte 0x%02x", c);
	}
	return true;
}

const char *
rule_id(const Rule *rule, int n)
{
	return rule->ids + rule->idoffset[n];
}

size_t
rule_copy_size(const Rule *rule)
{
	return offsetof(Rule, ids) + rule->idbytes;
}

void
rule_copy(Rule *to, const Rule *from)
{
	memcpy(to, from, rule_copy_size(from));
}

static void
put(char *buf, size_t size, size_t *used, const char *text)
{
	size_t		len = strlen(text);

	if (*used < size)
	{
		size_t		room = size - *used - 1;

		if (room > len)
			room = len;
		memcpy(buf + *used, text, room);
		buf[*used + room] = '\0';
	}
	*used += len;
}

/* Formats the subtree at "at"; returns where the next one begins. */
static int
format_node(const Rule *rule, int at, char *buf, size_t size, size_t *used)
{
	RuleNode	node = rule->nodes[at];
	char		k[16];

	at++;
	if (node.k == 0)
	{
		put(buf, size, used, rule_id(rule, node.n));
		return at;
	}
	snprintf(k, sizeof(k), "%u", node.k);
	put(buf, size, used, k);
	for (int i = 0; i < node.n; i++)
	{
		put(buf, size, used, i == 0 ? "(" : ",");
		at = format_node(rule, at, buf, size, used);
	}
	put(buf, size, used, ")");
	return at;
}

size_t
rule_format(const Rule *rule, char *buf, size_t size)
{
	size_t		used = 0;

	if (size > 0)
		buf[0] = '\0';
	if (rule->nnodes > 0)
		format_node(rule, 0, buf, size, &used);
	return used;
}

/* Restore the max-heap property below "i". */
static void
sift_down(uint64_t *heap, int n, int i)
{
	for (;;)
	{
		int			largest = i;
		uint64_t	swap;

		if (2 * i + 1 < n && heap[2 * i + 1] > heap[largest])
			largest = 2 * i + 1;
		if (2 * i + 2 < n && heap[2 * i + 2] > heap[largest])
			largest = 2 * i + 2;
		if (largest == i)
			return;
		swap = heap[i];
		heap[i] = heap[largest];
		heap[largest] = swap;
		i = largest;
	}
}

/* The k-th largest of n values, which are reordered. */
static uint64_t
kth_largest(uint64_t *values, int n, int k)
{
	for (int i = n / 2 - 1; i >= 0; i--)
		sift_down(values, n, i);
	while (--k > 0)
	{
		values[0] = values[--n];
		sift_down(values, n, 0);
	}
	return values[0];
}

uint64_t
rule_commit_lsn(const Rule *rule, RuleLeaf leaf, void *arg)
{
	uint64_t	stack[RULE_MAX_NODES];
	int			depth = 0;

	for (int i = rule->nnodes - 1; i >= 0; i--)
	{
		RuleNode	node = rule->nodes[i];

		if (node.k == 0)
			stack[depth++] = leaf(rule_id(rule, node.n), arg);
		else
		{
			depth -= node.n;
			stack[depth] = kth_largest(stack + depth, node.n, node.k);
			depth++;
		}
	}
	return depth == 1 ? stack[0] : 0;
}

typedef struct NodeSet
{
	int			n;
	const char *const *ids;
	bool		complement;
} NodeSet;

static uint64_t
in_set(const char *id, void *arg)
{
	const NodeSet *set = arg;
	bool		found = false;

	for (int i = 0; i < set->n && !found; i++)
		found = strcmp(set->ids[i], id) == 0;
	return found != set->complement;
}

bool
rule_can_fulfil(const Rule *rule, int nnodes, const char *const *nodes)
{
	NodeSet		set = {.n = nnodes, .ids = nodes, .complement = false};

	return rule_commit_lsn(rule, in_set, &set) > 0;
}

bool
rule_can_block(const Rule *rule, int nnodes, const char *const *nodes)
{
	NodeSet		set = {.n = nnodes, .ids = nodes, .complement = true};

	return rule_commit_lsn(rule, in_set, &set) == 0;
}
