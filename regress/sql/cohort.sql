-- A leader whose rule is itself alone; see regress/lib/pg-regress.ts.
SELECT enabled, node_id, state, term, fence_term, in_recovery, leader, rule, joint,
	ruleset_version, waiting, quiesced, self_sufficient,
	commit_lsn <= flushed_lsn AS committed_is_flushed, applied_lsn = flushed_lsn AS all_applied,
	term_start_lsn < commit_lsn AS term_is_committed
FROM quorate.status();
SELECT version, term, rule, content FROM quorate.ruleset();
SELECT quorate.rule(), quorate.term();
SELECT count(*) FROM quorate.followers;

-- what is committed is known to be
CREATE TABLE regress_quorate (a int);
INSERT INTO regress_quorate VALUES (1);
SELECT pg_current_wal_lsn() AS lsn \gset
SELECT quorate.is_committed(:'lsn'), quorate.commit_lsn() >= :'lsn' AS commit_lsn_reached;
SELECT quorate.is_committed('FF/0');
SELECT quorate.wait_for_lsn(:'lsn');

-- what isn't is waited for, and not in vain for ever
\set VERBOSITY sqlstate
SELECT quorate.wait_for_lsn('FF/0', '20 ms');
SET statement_timeout = '20 ms';
SELECT quorate.wait_for_lsn('FF/0', '1 min');
RESET statement_timeout;
\set VERBOSITY default

-- the timeline is the term
SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) = lpad(to_hex(quorate.term()), 8, '0') AS timeline_is_term;

-- the ruleset record of the term is in the log
SELECT count(*) FROM pg_get_wal_resource_managers() WHERE rm_name = 'quorate';

-- who may see what
CREATE ROLE regress_quorate_user;
CREATE ROLE regress_quorate_monitor IN ROLE pg_monitor;
SET ROLE regress_quorate_user;
SELECT quorate.commit_lsn() IS NOT NULL AS commit_lsn, quorate.is_committed('0/1'), quorate.term();
SELECT quorate.status();
SELECT * FROM quorate.followers;
SELECT quorate.ruleset();
SELECT quorate.rule();
SET ROLE regress_quorate_monitor;
SELECT state FROM quorate.status();
SELECT count(*) FROM quorate.followers;
SELECT version FROM quorate.ruleset();
SELECT quorate.rule();
RESET ROLE;
DROP ROLE regress_quorate_user;
DROP ROLE regress_quorate_monitor;
DROP TABLE regress_quorate;
