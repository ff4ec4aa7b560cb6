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
SHOW quorate.reads;
SET quorate.reads = 'heartbeat';
SELECT quorate.staleness() IS NOT NULL AS known;
RESET quorate.reads;
SET quorate.reads = 'guessed';
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
DROP TABLE regress_quorate_report;
