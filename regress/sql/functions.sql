-- Rules as such: parse, evaluate, canFulfil, canBlock.
CREATE EXTENSION IF NOT EXISTS quorate;

SELECT r.rule, v.*
FROM unnest(ARRAY['n1', '2(n1,n2,n3)', '2(1(n1,n2),1(n3,n4))', '1(a_b-c)',
	'', 'N1', 'n1 ', '2(n1, n2)', '0(n1)', '3(n1,n2)', '01(n1)', '2(n1,n2', '2()',
	'1n(n2)', 'n1,n2', '99999999999999999999(n1)']) WITH ORDINALITY AS r(rule, n),
	LATERAL quorate.validate_rule(r.rule) AS v
ORDER BY r.n;

-- limits
SELECT depth, (quorate.validate_rule(repeat('1(', depth - 1) || 'n1' || repeat(')', depth - 1))).*
FROM unnest(ARRAY[16, 17]) AS depth;
SELECT n, (quorate.validate_rule('1(' || string_agg('n' || i, ',') || ')')).*
FROM unnest(ARRAY[999, 1000]) AS n, LATERAL generate_series(1, n) AS i
GROUP BY n ORDER BY n;
SELECT (quorate.validate_rule(repeat('n', 63))).valid, (quorate.validate_rule(repeat('n', 64))).class;

SELECT quorate.eval_rule('2(n1,n2,n3)', ARRAY['n1', 'n2', 'n3'], ARRAY['0/300', '0/200', '0/100']::pg_lsn[]);
SELECT quorate.eval_rule('2(n1,n2,n3)', '{"n1": "0/300", "n3": "0/100"}');
SELECT quorate.eval_rule('2(n1,n2,n3)', '{"n1": "0/300"}');
SELECT quorate.eval_rule('2(n1,n2,n3)', '{}');
SELECT quorate.eval_rule('2(1(n1,n2),1(n3,n4))', '{"n1": "FFFFFFFF/FFFFFFFF", "n4": "0/5"}');
SELECT quorate.eval_rule('2(n1,n1)', '{"n1": "0/5"}');

SELECT s, quorate.can_fulfil('2(n1,n2,n3)', s), quorate.can_block('2(n1,n2,n3)', s)
FROM (VALUES ('{}'::text[]), ('{n1}'), ('{n1,n2}'), ('{n1,n1}'), ('{n4,n5}'), ('{n1,n2,n3}')) AS v(s);

-- errors
SELECT quorate.eval_rule('2(n1', '{}');
SELECT quorate.eval_rule('n1', ARRAY['n1'], ARRAY[]::pg_lsn[]);
SELECT quorate.eval_rule('n1', ARRAY[NULL], ARRAY['0/1']::pg_lsn[]);
SELECT quorate.can_fulfil('', '{}');
SELECT quorate.eval_rule('n1', '{"n1": "x"}');
SELECT quorate.eval_rule(NULL, '{}') IS NULL AS strict;
