/**
 * Looking at a server session's state, when a statement's text doesn't tell what it left behind (functions, DO,
 * temporary objects, locks …). Everything is qualified: the client's search_path must not matter.
 */
import { pins } from "../text/plan.ts";
import { serverNamePrefix } from "./statements.ts";

const settingsFromCatalogue =
  "SELECT 's'::pg_catalog.text, name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'";
/** The extension's: with settings of one's own making, and with values as set_config takes them. */
const settingsFromExtension =
  "SELECT 's'::pg_catalog.text, name, value FROM quorate.session_settings() WHERE true";

/** Whether the extension's function is there, and whether login event triggers are (from PostgreSQL 17 on). */
export const aboutDatabaseSql =
  "SELECT pg_catalog.to_regprocedure('quorate.session_settings()') IS NOT NULL, pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'dathasloginevt' FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

const probeBase = ` AND name OPERATOR(pg_catalog.<>) ALL ('{transaction_isolation,transaction_read_only,transaction_deferrable}'::pg_catalog.text[])
UNION ALL SELECT 'r', pg_catalog.current_setting('role'), SESSION_USER::pg_catalog.text
UNION ALL (SELECT 'T', '', '' WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid)
UNION ALL (SELECT 't', '', '' FROM pg_catalog.pg_depend d WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 1)
UNION ALL (SELECT 'a', '', '' FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() LIMIT 1)
UNION ALL (SELECT 'l', '', '' FROM pg_catalog.pg_listening_channels() LIMIT 1)
UNION ALL (SELECT 'p', '', '' FROM pg_catalog.pg_prepared_statement() p WHERE pg_catalog.left(p.name, ${serverNamePrefix.length}) OPERATOR(pg_catalog.<>) '${serverNamePrefix}' LIMIT 1)
UNION ALL (SELECT 'h', '', '' FROM pg_catalog.pg_cursor() c WHERE c.is_holdable LIMIT 1)`;

/**
 * Settings of one's own making ("app.user") are in no catalogue: they can only be asked for by name. Names come from
 * texts that clients sent and from the bodies of functions.
 */
export function probeSql(
  customNames: ReadonlySet<string>,
  readFunctions: boolean,
  listsSettings: boolean,
): string {
  if (listsSettings) return settingsFromExtension + probeBase;
  let sql = settingsFromCatalogue + probeBase;
  if (customNames.size > 0) {
    const list = [...customNames].map((name) => `'${name}'`).join(",");
    sql += `\nUNION ALL SELECT 's', n, pg_catalog.current_setting(n, true) FROM pg_catalog.unnest(ARRAY[${list}]::pg_catalog.text[]) n WHERE pg_catalog.current_setting(n, true) OPERATOR(pg_catalog.<>) ''`;
  }
  if (readFunctions) sql += `\nUNION ALL ${functionBodiesSql}`;
  return sql;
}

/** Functions that might change settings, with their bodies. */
const functionBodiesSql =
  "(SELECT 'f', p.proname::pg_catalog.text, p.prosrc FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.regnamespace AND p.prosrc OPERATOR(pg_catalog.~*) 'set_config|set[[:space:]]' LIMIT 10000)";

/** Names of settings of one's own in a text: of set_config, and of SET. */
export function customNamesIn(text: string): string[] {
  const names: string[] = [];
  for (const [, name = ""] of text.matchAll(/set_config\s*\(\s*'([a-z_][\w$]*(?:\.[a-z_][\w$]*)+)'/gi))
    names.push(name.toLowerCase());
  for (const [, name = ""] of text.matchAll(
    /\bset\s+(?:session\s+)?([a-z_][\w$]*(?:\.[a-z_][\w$]*)+)\s*(?:=|to\b)/gi,
  )) {
    names.push(name.toLowerCase());
  }
  return names;
}

/** set_config with a name that isn't a literal: nobody knows what it sets. */
export const setsUnknownNames = (text: string): boolean =>
  /set_config\s*\(\s*(?!'[a-z_][\w$.]*')/i.test(text);

export type ProbeResult = {
  readonly pins: number;
  /** Has had temporary objects, though there may be none now. */
  readonly usedTemp: boolean;
  readonly settings: ReadonlyMap<string, string>;
  /** Name and body of functions that may change settings, if asked for. */
  readonly functions: readonly (readonly [string, string])[];
};

export function readProbe(rows: readonly (readonly (string | null)[])[], user: string): ProbeResult {
  let bits = 0;
  let usedTemp = false;
  const functions: [string, string][] = [];
  const settings = new Map<string, string>();
  for (const [kind, name, value] of rows) {
    switch (kind) {
      case "s":
        settings.set((name ?? "").toLowerCase(), value ?? "");
        break;
      case "r":
        if (name !== "none" || value !== user) bits |= pins.role;
        break;
      case "f":
        functions.push([name ?? "", value ?? ""]);
        break;
      case "T":
        usedTemp = true;
        break;
      case "t":
        bits |= pins.temp;
        break;
      case "a":
        bits |= pins.advisoryLock;
        break;
      case "l":
        bits |= pins.listen;
        break;
      case "p":
        bits |= pins.prepared;
        break;
      case "h":
        bits |= pins.holdCursor;
        break;
      default:
        break;
    }
  }
  return { pins: bits, usedTemp, settings, functions };
}

/** Names that the lexer may trust: only a superuser can add functions to pg_catalog. */
export const functionNamesSql =
  "SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace";
