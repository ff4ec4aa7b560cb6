/** From libpg-query's tree to a plan. Runs once per text, off the hot path. Whatever it doesn't know is probed. */
import { type Effect, noEffect, type Plan, pins, unparsed } from "./plan.ts";

type Tree = { readonly [key: string]: unknown };
export type Statement = { readonly stmt?: Tree };
export type IsSafeFunction = (name: string) => boolean;

type Findings = {
  probe: boolean;
  pins: number;
  sqlPrepare: boolean;
  writes: boolean;
  changesParsing: boolean;
  ddl: boolean;
  changesDefaults: boolean;
  changesLogins: boolean;
};

/** Settings that don't change what a text means; a client's own ("app.user") don't either. */
const noMatterForParsing =
  /^(application_name|.*_timeout|(maintenance_)?work_mem|client_min_messages|extra_float_digits|bytea_output|log_.*|client_encoding|default_transaction_.*|transaction_.*|synchronous_commit|role|session_authorization|seed)$/;

export const mattersForParsing = (name: string): boolean =>
  !name.includes(".") && !noMatterForParsing.test(name);

export function analyse(statements: readonly Statement[], isSafeFunction: IsSafeFunction): Plan {
  const found: Findings = {
    probe: false,
    pins: 0,
    sqlPrepare: false,
    writes: false,
    changesParsing: false,
    ddl: false,
    changesDefaults: false,
    changesLogins: false,
  };
  const effects: Effect[] = [];
  for (const { stmt } of statements) {
    if (stmt === undefined) return unparsed;
    effects.push(analyseStatement(stmt, found, isSafeFunction));
  }
  return {
    read: !found.writes && !found.probe && found.pins === 0,
    readOnly: effects.length === 1 && readOnlyBegin(statements[0]?.stmt),
    pure: effects.length > 0 && effects.every((each) => each.kind !== "none"),
    begins: effects.length === 1 && effects[0]?.kind === "begin",
    probe: found.probe,
    pins: found.pins,
    effects: effects.some((each) => each.kind !== "none") ? effects : null,
    sqlPrepare: found.sqlPrepare,
    changesParsing: found.changesParsing || found.probe,
    ddl: found.ddl,
    changesDefaults: found.changesDefaults,
    changesLogins: found.changesLogins,
  };
}

function readOnlyBegin(stmt: Tree | undefined): boolean {
  const node = stmt?.["TransactionStmt"] as Tree | undefined;
  const options = node?.["options"];
  if (node === undefined || !Array.isArray(options)) return false;
  if (node["kind"] !== "TRANS_STMT_BEGIN" && node["kind"] !== "TRANS_STMT_START") return false;
  return options.some((each) => {
    const option = (each as Tree)["DefElem"] as Tree | undefined;
    return (
      option?.["defname"] === "transaction_read_only" &&
      option["arg"] !== undefined &&
      constant(option["arg"]) === "1"
    );
  });
}

/** Utility statements that leave nothing behind in the session. */
const harmless = new Set([
  "TransactionStmt",
  "VariableShowStmt",
  "ExplainStmt",
  "CopyStmt",
  "NotifyStmt",
  "TruncateStmt",
  "LockStmt",
  "VacuumStmt",
  "CheckPointStmt",
  "FetchStmt",
  "DeclareCursorStmt",
  "ConstraintsSetStmt",
]);

/** What sessions begin with: settings, login event triggers. */
const definesBeginnings = new Set([
  "AlterRoleSetStmt",
  "AlterDatabaseSetStmt",
  "CreateEventTrigStmt",
  "AlterEventTrigStmt",
]);

const definesLogins = new Set(["CreateRoleStmt", "AlterRoleStmt", "DropRoleStmt", "RenameStmt"]);

const rowStatements = new Set(["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"]);

function analyseStatement(stmt: Tree, found: Findings, isSafe: IsSafeFunction): Effect {
  const kind = Object.keys(stmt)[0] ?? "";
  const node = stmt[kind] as Tree;
  switch (kind) {
    case "SelectStmt": {
      const effect = setConfigAlone(node, found);
      if (effect !== undefined) return effect;
      if (node["intoClause"] !== undefined || node["lockingClause"] !== undefined) found.writes = true;
      if (node["intoClause"] !== undefined) found.probe = true;
      walk(node, found, isSafe);
      return noEffect;
    }
    case "VariableSetStmt":
      found.writes = true;
      return analyseSet(node, found);
    case "TransactionStmt":
      found.writes = true;
      return transactionEffect(node);
    case "DiscardStmt":
      found.writes = true;
      if (node["target"] === "DISCARD_ALL") return { kind: "discard-all" };
      if (node["target"] === "DISCARD_SEQUENCES") return { kind: "discard-sequences" };
      if (node["target"] !== "DISCARD_PLANS") found.probe = true;
      return noEffect;
    case "DeallocateStmt":
      found.writes = true;
      if (node["isall"] === true) return { kind: "deallocate-all" };
      found.sqlPrepare = true;
      found.probe = true;
      return noEffect;
    case "PrepareStmt":
    case "ExecuteStmt":
      found.writes = true;
      found.sqlPrepare = true;
      found.probe = true;
      return noEffect;
    case "LoadStmt":
      found.writes = true;
      found.pins |= pins.load;
      found.probe = true;
      return noEffect;
    case "VariableShowStmt":
      return noEffect;
    default:
      break;
  }
  if (!rowStatements.has(kind) && !harmless.has(kind)) {
    found.probe = true;
    found.ddl = true;
    if (definesBeginnings.has(kind)) found.changesDefaults = true;
    if (definesLogins.has(kind)) found.changesLogins = true;
    // A new connection would be a login of its own, before the client's next one.
    if (kind.endsWith("EventTrigStmt")) found.pins |= pins.session;
  }
  if (kind === "DeclareCursorStmt" && (Number(node["options"] ?? 0) & 0x20) !== 0) found.probe = true;
  found.writes = true;
  walk(node, found, isSafe);
  return noEffect;
}

function transactionEffect(node: Tree): Effect {
  const name = String(node["savepoint_name"] ?? "");
  switch (node["kind"]) {
    case "TRANS_STMT_BEGIN":
    case "TRANS_STMT_START":
      return { kind: "begin" };
    case "TRANS_STMT_COMMIT":
    case "TRANS_STMT_PREPARE":
      return { kind: "commit" };
    case "TRANS_STMT_ROLLBACK":
      return { kind: "rollback" };
    case "TRANS_STMT_SAVEPOINT":
      return { kind: "savepoint", name };
    case "TRANS_STMT_RELEASE":
      return { kind: "release", name };
    case "TRANS_STMT_ROLLBACK_TO":
      return { kind: "rollback-to", name };
    default:
      return noEffect;
  }
}

/** Settings whose values are lists of names, each quoted by itself. */
const nameLists = new Set([
  "search_path",
  "temp_tablespaces",
  "local_preload_libraries",
  "session_preload_libraries",
  "output_plugin_libraries",
]);
/** Settings whose value is what they meant when they were set (a name found in that search_path). */
const meansOfTheMoment = new Set(["default_text_search_config"]);
/** Settings that last only as long as the transaction, however they are set. */
const ofTransaction = new Set(["transaction_isolation", "transaction_read_only", "transaction_deferrable"]);

function analyseSet(node: Tree, found: Findings): Effect {
  const name = String(node["name"] ?? "").toLowerCase();
  if (name === "" || mattersForParsing(name)) found.changesParsing = true;
  if (name === "temp_buffers" && node["kind"] === "VAR_SET_VALUE") found.pins |= pins.buffers;
  if (node["is_local"] === true) return noEffect;
  switch (node["kind"]) {
    case "VAR_RESET_ALL":
      return { kind: "reset-all" };
    case "VAR_SET_MULTI":
      if (name === "session characteristics") found.probe = true;
      return noEffect;
    default:
      break;
  }
  if (ofTransaction.has(name)) return noEffect;
  if (name === "role" || name === "session_authorization") {
    found.probe = true;
    return noEffect;
  }
  if (name === "seed") {
    found.pins |= pins.seed;
    return noEffect;
  }
  if (node["kind"] === "VAR_SET_DEFAULT" || node["kind"] === "VAR_RESET")
    return { kind: "set", name, value: null };
  if (meansOfTheMoment.has(name)) {
    found.probe = true;
    return noEffect;
  }
  const args = node["args"];
  const values = Array.isArray(args) ? args.map(constant) : [];
  if (node["kind"] !== "VAR_SET_VALUE" || values.length === 0 || values.includes(undefined)) {
    found.probe = true;
    return noEffect;
  }
  const quoted = nameLists.has(name) ? values.map((value) => quoteName(value as string)) : values;
  return { kind: "set", name, value: quoted.join(", ") };
}

function quoteName(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

/** The text of a constant as the server would take it for a setting. */
function constant(node: unknown): string | undefined {
  const value = (node as Tree)["A_Const"] as Tree | undefined;
  if (value === undefined) return undefined;
  const text = value["sval"] as Tree | undefined;
  if (text !== undefined) return String(text["sval"] ?? "");
  const integer = value["ival"] as Tree | undefined;
  if (integer !== undefined) return String(integer["ival"] ?? 0);
  const float = value["fval"] as Tree | undefined;
  if (float !== undefined) return String(float["fval"]);
  return undefined;
}

/** `select set_config('name', 'value', false)` and nothing else. */
function setConfigAlone(select: Tree, found: Findings): Effect | undefined {
  const target = select["targetList"];
  if (!Array.isArray(target) || target.length !== 1) return undefined;
  if (Object.keys(select).some((key) => !["targetList", "limitOption", "op"].includes(key))) return undefined;
  const value = ((target[0] as Tree)["ResTarget"] as Tree | undefined)?.["val"] as Tree | undefined;
  const call = value?.["FuncCall"] as Tree | undefined;
  if (call === undefined || functionName(call) !== "set_config") return undefined;
  const args = call["args"];
  if (!Array.isArray(args) || args.length !== 3) return undefined;
  const [name, text] = [constant(args[0]), constant(args[1])];
  const local = ((args[2] as Tree)["A_Const"] as Tree | undefined)?.["boolval"] as Tree | undefined;
  if (name === undefined || text === undefined || local === undefined) return undefined;
  const plain = name.toLowerCase();
  if (mattersForParsing(plain)) found.changesParsing = true;
  if (plain === "temp_buffers") found.pins |= pins.buffers;
  if (local["boolval"] === true) return noEffect;
  if (plain === "role" || plain === "session_authorization" || plain === "seed" || ofTransaction.has(plain))
    return undefined;
  if (meansOfTheMoment.has(plain)) return undefined;
  return { kind: "set", name: plain, value: text };
}

function functionName(call: Tree): string | undefined {
  const parts = call["funcname"];
  if (!Array.isArray(parts)) return undefined;
  const names = parts.map((each) =>
    String((((each as Tree)["String"] as Tree | undefined)?.["sval"] as string) ?? ""),
  );
  if (names.length === 1) return names[0];
  return names.length === 2 && names[0] === "pg_catalog" ? names[1] : undefined;
}

const probedFunctions =
  /^(set_config|pg_(try_)?advisory_(un)?lock|pg_backup_st|pg_(create|copy)_.*_slot|.*_to_xml|ts_stat|ts_rewrite)/;

function walk(node: unknown, found: Findings, isSafe: IsSafeFunction): void {
  if (Array.isArray(node)) {
    for (const each of node) walk(each, found, isSafe);
    return;
  }
  if (typeof node !== "object" || node === null) return;
  for (const [key, value] of Object.entries(node)) {
    switch (key) {
      case "FuncCall":
        lookAtCall(value as Tree, found, isSafe);
        break;
      case "RangeVar":
        lookAtRelation(value as Tree, found);
        break;
      case "InsertStmt":
      case "UpdateStmt":
      case "DeleteStmt":
      case "MergeStmt":
      case "lockingClause":
        found.writes = true;
        break;
      case "intoClause":
      case "CreateTableAsStmt":
        found.writes = true;
        found.probe = true;
        break;
      case "ExecuteStmt":
        found.sqlPrepare = true;
        found.probe = true;
        break;
      default:
        break;
    }
    walk(value, found, isSafe);
  }
}

function lookAtCall(call: Tree, found: Findings, isSafe: IsSafeFunction): void {
  const name = functionName(call);
  if (name === "currval" || name === "lastval") found.pins |= pins.sequence;
  if (name === "pg_backend_pid") found.pins |= pins.process;
  if (name === "setseed") found.pins |= pins.seed;
  if (name?.startsWith("pg_replication_origin_")) found.pins |= pins.replication;
  if (name === "pg_prepared_statement") found.sqlPrepare = true;
  if (name === "nextval" || name === "setval" || name?.startsWith("lo_")) found.writes = true;
  if (name === undefined || probedFunctions.test(name) || !isSafe(name)) {
    found.probe = true;
    found.writes = true;
  }
}

function lookAtRelation(relation: Tree, found: Findings): void {
  if (relation["relname"] === "pg_prepared_statements") found.sqlPrepare = true;
  if (relation["relpersistence"] === "t" || String(relation["schemaname"] ?? "").startsWith("pg_temp")) {
    found.probe = true;
    found.writes = true;
  }
}
