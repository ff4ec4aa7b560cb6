/* sql/quorate--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION quorate" to load this file. \quit

-- What this server is. One row, also where quorate is not enabled.
CREATE FUNCTION quorate.status(
	OUT enabled boolean,
	OUT node_id text,
	OUT state text,
	OUT term bigint,
	OUT fence_term bigint,
	OUT in_recovery boolean,
	OUT leader text,
	OUT commit_lsn pg_lsn,
	OUT flushed_lsn pg_lsn,
	OUT applied_lsn pg_lsn,
	OUT term_start_lsn pg_lsn,
	OUT rule text,
	OUT joint text[],
	OUT ruleset_version bigint,
	OUT waiting integer,
	OUT waits bigint,
	OUT page_waits bigint,
	OUT quiesced boolean,
	OUT self_sufficient boolean)
RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'quorate_sql_status';

CREATE FUNCTION quorate.get_followers(
	OUT node text,
	OUT member boolean,
	OUT pid integer,
	OUT timeline bigint,
	OUT written_lsn pg_lsn,
	OUT flushed_lsn pg_lsn,
	OUT applied_lsn pg_lsn,
	OUT reply_time timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'quorate_sql_followers';

-- Who streams from this server.
CREATE VIEW quorate.followers AS
	SELECT f.node, f.member, f.pid, f.timeline,
		f.written_lsn, f.flushed_lsn, f.applied_lsn, f.reply_time
	FROM quorate.get_followers() AS f;

-- The applied ruleset: one row, or none.
CREATE FUNCTION quorate.ruleset(
	OUT version bigint,
	OUT term bigint,
	OUT lsn pg_lsn,
	OUT rule text,
	OUT content text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT ROWS 1 PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'quorate_sql_ruleset';

-- The rule in force on a leader.
CREATE FUNCTION quorate.rule()
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'quorate_sql_rule';

-- The commit LSN: on a leader the cohort's, elsewhere as far as it is known here.
CREATE FUNCTION quorate.commit_lsn()
RETURNS pg_lsn
LANGUAGE C VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_commit_lsn';

CREATE FUNCTION quorate.term()
RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_term';

CREATE FUNCTION quorate.is_committed(lsn pg_lsn)
RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_is_committed';

-- Wait until what was committed up to "lsn" is visible here.
CREATE FUNCTION quorate.wait_for_lsn(lsn pg_lsn, timeout interval DEFAULT '10 s')
RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'quorate_sql_wait_for_lsn';

-- How old what is visible here may be at most; NULL if unknown.
CREATE FUNCTION quorate.staleness()
RETURNS interval
LANGUAGE C VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_staleness';

-- What this session has set and that lasts beyond its transaction.
CREATE FUNCTION quorate.session_settings(OUT name text, OUT value text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT ROWS 10 PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'quorate_sql_session_settings';

-- Rules as such; these work without a cluster.
CREATE FUNCTION quorate.validate_rule(
	rule text,
	OUT valid boolean,
	OUT class text,
	OUT at integer,
	OUT message text)
RETURNS record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_validate_rule';

CREATE FUNCTION quorate.eval_rule(rule text, nodes text[], flushed pg_lsn[])
RETURNS pg_lsn
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_eval_rule';

-- The same with an object: {"n1": "0/5000148", ...}
CREATE FUNCTION quorate.eval_rule(rule text, flushed jsonb)
RETURNS pg_lsn
LANGUAGE SQL IMMUTABLE STRICT PARALLEL SAFE
RETURN (
	SELECT quorate.eval_rule(rule,
		coalesce(pg_catalog.array_agg(e.key), '{}'::pg_catalog.text[]),
		coalesce(pg_catalog.array_agg(e.value::pg_catalog.pg_lsn), '{}'::pg_catalog.pg_lsn[]))
	FROM pg_catalog.jsonb_each_text(flushed) AS e);

CREATE FUNCTION quorate.can_fulfil(rule text, nodes text[])
RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_can_fulfil';

CREATE FUNCTION quorate.can_block(rule text, nodes text[])
RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'quorate_sql_can_block';

-- Clients need the schema for commit_lsn(), is_committed() and wait_for_lsn();
-- the state of the cluster is for whoever may monitor.
GRANT USAGE ON SCHEMA quorate TO PUBLIC;

REVOKE ALL ON FUNCTION quorate.status() FROM PUBLIC;
REVOKE ALL ON FUNCTION quorate.get_followers() FROM PUBLIC;
REVOKE ALL ON FUNCTION quorate.ruleset() FROM PUBLIC;
REVOKE ALL ON FUNCTION quorate.rule() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION quorate.status() TO pg_monitor;
GRANT EXECUTE ON FUNCTION quorate.get_followers() TO pg_monitor;
GRANT EXECUTE ON FUNCTION quorate.ruleset() TO pg_monitor;
GRANT EXECUTE ON FUNCTION quorate.rule() TO pg_monitor;
GRANT SELECT ON quorate.followers TO pg_monitor;
