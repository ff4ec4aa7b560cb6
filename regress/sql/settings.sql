-- Settings: who may set what.
SELECT name, context, vartype, min_val, max_val FROM pg_settings WHERE name LIKE 'quorate.%' ORDER BY name;
SHOW quorate.node_id;

SET quorate.member = on;
SET quorate.node_id = 'n2';
SET quorate.nonsense = 1;
SET quorate.control = on;
RESET quorate.control;

CREATE ROLE regress_quorate_user;
SET ROLE regress_quorate_user;
SET quorate.control = on;
SHOW quorate.control_socket;
RESET ROLE;
DROP ROLE regress_quorate_user;

-- what a read needs
SHOW quorate.read_proof;
SET quorate.read_proof = 'heartbeat';
SELECT quorate.staleness() IS NOT NULL AS known;
RESET quorate.read_proof;
SET quorate.read_proof = 'guessed';
SET quorate.lease = '1s';
SET quorate.debug_page_gate = off;

-- the LSN of the last commit, for those who want it
CREATE TABLE regress_quorate_report (a int);
SHOW quorate.last_commit_lsn;
SET quorate.report_commit_lsn = on;
INSERT INTO regress_quorate_report VALUES (1);
SELECT pg_current_wal_flush_lsn() AS flushed, current_setting('quorate.last_commit_lsn') AS first \gset
SELECT :'first'::pg_lsn <= :'flushed'::pg_lsn AS flushed, quorate.is_committed(:'first');
INSERT INTO regress_quorate_report VALUES (2);
SELECT current_setting('quorate.last_commit_lsn')::pg_lsn > :'first'::pg_lsn AS commit_does;
SET quorate.last_commit_lsn = '0/0';
RESET quorate.report_commit_lsn;

-- how far a transaction that wrote nothing could see
SHOW quorate.last_read_lsn;
SET quorate.report_read_lsn = on;
INSERT INTO regress_quorate_report VALUES (3);
SELECT 1 AS read;
SELECT current_setting('quorate.last_read_lsn') AS first \gset
SELECT quorate.is_committed(:'first');
INSERT INTO regress_quorate_report VALUES (4);
SELECT 1 AS read;
SELECT current_setting('quorate.last_read_lsn')::pg_lsn > :'first'::pg_lsn AS further;
-- also in a transaction that is rolled back, while it lasts
INSERT INTO regress_quorate_report VALUES (5);
SELECT current_setting('quorate.last_read_lsn') AS before \gset
INSERT INTO regress_quorate_report VALUES (6);
BEGIN;
SELECT count(*) FROM regress_quorate_report;
SELECT current_setting('quorate.last_read_lsn')::pg_lsn > :'before'::pg_lsn AS further;
ROLLBACK;
RESET quorate.report_read_lsn;

-- settings that a transaction leaves behind, by whatever means
SET quorate.report_settings = on;
CREATE FUNCTION regress_quorate_set() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM set_config('app.who', 'trigger', false); RETURN NEW; END $$;
CREATE TRIGGER regress_quorate_set BEFORE INSERT ON regress_quorate_report
FOR EACH ROW EXECUTE FUNCTION regress_quorate_set();
SELECT current_setting('quorate.settings_changes') AS n \gset
SELECT 1 AS nothing;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
INSERT INTO regress_quorate_report VALUES (7);
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
BEGIN; SET LOCAL work_mem = '1MB'; COMMIT;
BEGIN; SET work_mem = '1MB'; ROLLBACK;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
BEGIN; SAVEPOINT s; SET work_mem = '1MB'; RELEASE s; COMMIT;
SET search_path = 'Odd "name', public;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;

-- and what no setting shows
SELECT current_setting('quorate.settings_changes') AS n \gset
CREATE TEMP TABLE regress_quorate_temp (a int);
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
INSERT INTO regress_quorate_temp VALUES (1);
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
SELECT pg_try_advisory_lock(18);
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
LISTEN regress_quorate;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
PREPARE regress_quorate AS SELECT 1;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
BEGIN; DECLARE regress_quorate CURSOR WITH HOLD FOR SELECT 1; COMMIT;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
BEGIN; DECLARE regress_quorate_brief CURSOR FOR SELECT 1; SELECT pg_advisory_xact_lock(18); COMMIT;
SELECT current_setting('quorate.settings_changes')::int - :n AS changes;
CLOSE regress_quorate;
DEALLOCATE regress_quorate;
UNLISTEN *;
SELECT pg_advisory_unlock(18);
DROP TABLE regress_quorate_temp;
SELECT * FROM quorate.session_settings() WHERE name NOT LIKE 'quorate.%' AND name NOT IN
('datestyle', 'DateStyle', 'intervalstyle', 'IntervalStyle', 'TimeZone') ORDER BY name COLLATE "C";
RESET ALL;
DROP TABLE regress_quorate_report;
DROP FUNCTION regress_quorate_set();

-- where reads may be answered: for whoever routes them
SHOW quorate.read;
SET quorate.read = 'bounded(500ms)';
SET quorate.read = 'bounded(5)';
SET quorate.read = 'session';
SET quorate.read = 'eventual';
SET quorate.read = 'bounded(0)';
SET quorate.read = 'bounded(500ms';
SET quorate.read = 'bounded()';
SET quorate.read = 'nearby';
RESET quorate.read;
