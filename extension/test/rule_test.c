/*-------------------------------------------------------------------------
 *
 * rule_test.c
 *	  Plain C test runner for rule.c.
 *
 *	  rule_test <vectors>
 *
 * Runs the shared vectors (consensus/testdata/rules.txt, whose head explains
 * the format), then its own cases, among them random rules against a second,
 * simple-minded evaluator.  Prints "N passed, N failed"; the exit status is 1
 * if something failed.
 *
 *-------------------------------------------------------------------------
 */
#include "../src/rule.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE	(256 * 1024)
#define MAX_NODES	1200

static int	passed = 0;
static int	failed = 0;

static void
check(bool ok, const char *where, const char *format,...)
{
	va_list		args;

	if (ok)
	{
		passed++;
		return;
	}
	failed++;
	printf("not ok: %s: ", where);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

/* --- a list "n1=0/5,n2=0/3" or "n1,n2", in place --- */

typedef struct Positions
{
	int			n;
	const char *ids[MAX_NODES];
	uint64_t	lsns[MAX_NODES];
} Positions;

static uint64_t
parse_lsn(const char *text)
{
	unsigned int hi;
	unsigned int lo;

	if (sscanf(text, "%X/%X", &hi, &lo) != 2)
	{
		printf("bad LSN in the vectors: %s\n", text);
		exit(2);
	}
	return ((uint64_t) hi << 32) | lo;
}

static void
parse_list(char *text, Positions *positions)
{
	positions->n = 0;
	if (strcmp(text, "-") == 0)
		return;
	for (char *item = strtok(text, ","); item; item = strtok(NULL, ","))
	{
		char	   *equals = strchr(item, '=');

		if (positions->n == MAX_NODES)
		{
			printf("too many nodes in a line of the vectors\n");
			exit(2);
		}
		if (equals)
			*equals = '\0';
		positions->ids[positions->n] = item;
		positions->lsns[positions->n++] = equals ? parse_lsn(equals + 1) : 0;
	}
}

static uint64_t
position_of(const char *id, void *arg)
{
	const Positions *positions = arg;

	for (int i = 0; i < positions->n; i++)
	{
		if (strcmp(positions->ids[i], id) == 0)
			return positions->lsns[i];
	}
	return 0;
}

/* --- the shared vectors --- */

static void
run_vector(char *line, const char *where)
{
	static Rule rule;
	static Positions positions;
	static char text[RULE_MAX_TEXT + 1];
	RuleError	error;
	char	   *arrow = strstr(line, " => ");
	char	   *expected;
	char	   *question = line;
	char	   *subject;
	char	   *list;
	bool		parsed;

	if (!arrow)
	{
		check(false, where, "no \" => \"");
		return;
	}
	*arrow = '\0';
	expected = arrow + 4;
	subject = strchr(question, ' ');
	*subject++ = '\0';

	if (strcmp(question, "invalid") == 0)
	{
		if (strcmp(subject, "-") == 0)
			subject = "";
		parsed = rule_parse(subject, strlen(subject), &rule, &error);
		check(!parsed && strcmp(rule_error_name(error.class), expected) == 0, where,
			  "expected %s, got %s", expected, rule_error_name(error.class));
		return;
	}

	list = strrchr(subject, ' ');
	if (strcmp(question, "valid") != 0)
	{
		if (!list)
		{
			check(false, where, "fields are missing");
			return;
		}
		*list++ = '\0';
		parse_list(list, &positions);
	}
	parsed = rule_parse(subject, strlen(subject), &rule, &error);
	if (!parsed)
	{
		check(false, where, "refused: %s at %zu", error.message, error.at);
		return;
	}

	if (strcmp(question, "valid") == 0)
	{
		rule_format(&rule, text, sizeof(text));
		check(strcmp(text, expected) == 0, where, "formatted as %s", text);
	}
	else if (strcmp(question, "commit") == 0)
	{
		uint64_t	lsn = rule_commit_lsn(&rule, position_of, &positions);

		check(lsn == parse_lsn(expected), where, "expected %s, got %X/%X", expected,
			  (unsigned int) (lsn >> 32), (unsigned int) lsn);
	}
	else if (strcmp(question, "fulfil") == 0 || strcmp(question, "block") == 0)
	{
		bool		answer = question[0] == 'f' ?
			rule_can_fulfil(&rule, positions.n, positions.ids) :
			rule_can_block(&rule, positions.n, positions.ids);

		check(strcmp(answer ? "true" : "false", expected) == 0, where,
			  "expected %s", expected);
	}
	else
		check(false, where, "unknown question \"%s\"", question);
}

static void
run_vectors(const char *path)
{
	static char line[MAX_LINE];
	FILE	   *file = fopen(path, "r");
	int			number = 0;

	if (!file)
	{
		perror(path);
		exit(2);
	}
	while (fgets(line, sizeof(line), file))
	{
		char		where[64];

		line[strcspn(line, "\r\n")] = '\0';
		snprintf(where, sizeof(where), "line %d", ++number);
		if (line[0] != '\0' && line[0] != '#')
			run_vector(line, where);
	}
	fclose(file);
	check(number > 0, path, "no vectors");
}

/* --- random rules against a simple-minded evaluator of the text --- */

static uint32_t seed = 20261121;

static uint32_t
rnd(uint32_t n)
{
	seed = seed * 1664525u + 1013904223u;
	return (seed >> 8) % n;
}

static void
random_rule(char *buf, int depth)
{
	int			n;

	if (depth == 0 || rnd(3) == 0)
	{
		sprintf(buf + strlen(buf), "n%u", rnd(7));
		return;
	}
	n = 1 + rnd(5);
	sprintf(buf + strlen(buf), "%u(", 1 + rnd(n));
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			strcat(buf, ",");
		random_rule(buf, depth - 1);
	}
	strcat(buf, ")");
}

static uint64_t
simple_eval(const char **at, const uint64_t *lsns)
{
	uint64_t	values[8];
	int			n = 0;
	int			k;

	if (**at == 'n')
	{
		*at += 2;
		return lsns[(*at)[-1] - '0'];
	}
	k = **at - '0';
	*at += 2;
	for (;;)
	{
		values[n++] = simple_eval(at, lsns);
		if (*(*at)++ == ')')
			break;
	}
	/* the highest value that at least k of them reach */
	for (uint64_t best = 0;;)
	{
		uint64_t	next = UINT64_MAX;
		int			reach = 0;

		for (int i = 0; i < n; i++)
		{
			if (values[i] > best && values[i] < next)
				next = values[i];
		}
		if (next == UINT64_MAX)
			return best;
		for (int i = 0; i < n; i++)
			reach += values[i] >= next;
		if (reach < k)
			return best;
		best = next;
	}
}

static void
test_random(void)
{
	static Rule rule;
	static Rule copy;

	for (int round = 0; round < 5000; round++)
	{
		char		text[8192] = "";
		char		formatted[8192];
		char		names[7][3];
		uint64_t	lsns[7];
		uint64_t	expected;
		uint64_t	got;
		const char *at = text;
		Positions	positions = {.n = 7};
		RuleError	error;

		random_rule(text, 4);
		for (int i = 0; i < 7; i++)
		{
			sprintf(names[i], "n%d", i);
			positions.ids[i] = names[i];
			positions.lsns[i] = lsns[i] = rnd(6);
		}
		if (!rule_parse(text, strlen(text), &rule, &error))
		{
			check(false, text, "refused: %s", error.message);
			continue;
		}
		rule_format(&rule, formatted, sizeof(formatted));
		check(strcmp(text, formatted) == 0, text, "formatted as %s", formatted);
		memset(&copy, 0x7f, sizeof(copy));
		rule_copy(&copy, &rule);
		expected = simple_eval(&at, lsns);
		got = rule_commit_lsn(&copy, position_of, &positions);
		check(got == expected, text, "expected %llu, got %llu",
			  (unsigned long long) expected, (unsigned long long) got);
	}
}

/* --- limits --- */

static RuleErrorClass
classify(const char *text, size_t len)
{
	static Rule rule;
	RuleError	error;

	return rule_parse(text, len, &rule, &error) ? RULE_OK : error.class;
}

static void
test_limits(void)
{
	static char text[RULE_MAX_TEXT * 2];
	static char formatted[RULE_MAX_TEXT + 1];
	static Rule rule;
	Positions  *positions = malloc(sizeof(Positions));
	RuleError	error;
	char	   *to;

	/* the largest rule: 999 different ids, each as long as can be */
	for (int children = RULE_MAX_NODES - 1; children <= RULE_MAX_NODES; children++)
	{
		to = text + sprintf(text, "%d(", children / 2);
		for (int i = 0; i < children; i++)
		{
			memset(to, 'x', RULE_NODE_ID_LEN - 1);
			sprintf(to + RULE_NODE_ID_LEN - 5, "%04d", i);
			to += RULE_NODE_ID_LEN - 1;
			*to++ = ',';
		}
		to[-1] = ')';
		*to = '\0';
		check(classify(text, strlen(text)) == (children < RULE_MAX_NODES ? RULE_OK : RULE_SIZE),
			  "size", "%d children", children);
		if (children == RULE_MAX_NODES)
			break;
		rule_parse(text, strlen(text), &rule, &error);
		check(strlen(text) <= RULE_MAX_TEXT, "size", "the text is longer than RULE_MAX_TEXT");
		check(rule_format(&rule, formatted, sizeof(formatted)) == strlen(text) &&
			  strcmp(text, formatted) == 0, "size", "formats differently");
		check(rule.nids == children && rule_copy_size(&rule) <= sizeof(Rule), "size",
			  "%d ids", rule.nids);
		positions->n = children;
		for (int i = 0; i < children; i++)
		{
			positions->ids[i] = rule_id(&rule, i);
			positions->lsns[i] = (uint64_t) ((i * 7919) % children) + 1;
		}
		check(rule_commit_lsn(&rule, position_of, positions) ==
			  (uint64_t) (children - children / 2 + 1), "size", "wrong commit LSN");
	}

	/* a text that is not zero-terminated, or has a zero byte */
	check(classify("n1x", 2) == RULE_OK, "length", "reads beyond the length");
	check(classify("2(n1,n2)", 7) == RULE_SYNTAX, "length", "reads beyond the length");
	check(classify("n1\0", 3) == RULE_SYNTAX, "length", "takes a zero byte");
	check(classify("2(n1\0,n2)", 9) == RULE_SYNTAX, "length", "takes a zero byte");

	/* truncation of the formatted text */
	rule_parse("2(n1,n2,n3)", 11, &rule, &error);
	check(rule_format(&rule, formatted, 5) == 11 && strcmp(formatted, "2(n1") == 0,
		  "format", "truncated to %s", formatted);

	/* where it is wrong */
	rule_parse("2(n1,N2)", 8, &rule, &error);
	check(error.at == 5, "error", "at %zu", error.at);
	rule_parse("2(n1,3(n2))", 11, &rule, &error);
	check(error.class == RULE_THRESHOLD && error.at == 5, "error", "at %zu", error.at);
	free(positions);
}

/* Every byte string must be taken or refused without harm. */
static void
test_garbage(void)
{
	static const char alphabet[] = "012349()(),,,nab-_ \n\xff";

	for (int round = 0; round < 20000; round++)
	{
		static Rule rule;
		char		text[64];
		char		formatted[128];
		size_t		len = rnd(sizeof(text));
		RuleError	error;

		for (size_t i = 0; i < len; i++)
			text[i] = alphabet[rnd(sizeof(alphabet) - 1)];
		if (rule_parse(text, len, &rule, &error))
		{
			rule_format(&rule, formatted, sizeof(formatted));
			check(strlen(formatted) == len && memcmp(formatted, text, len) == 0,
				  "garbage", "%.*s formats as %s", (int) len, text, formatted);
		}
		else
			check(error.class != RULE_OK && error.at <= len && error.message[0] != '\0',
				  "garbage", "%.*s refused without reason", (int) len, text);
	}
}

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		fprintf(stderr, "usage: %s <vectors>\n", argv[0]);
		return 2;
	}
	run_vectors(argv[1]);
	test_random();
	test_limits();
	test_garbage();
	printf("%d passed, %d failed\n", passed, failed);
	return failed > 0;
}
