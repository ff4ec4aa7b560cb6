/**
 * Replays the archive into a restored backup: a Postgres of its own, that belongs to no quorum (quorate.restoring),
 * listens nowhere but on a socket in a private directory, archives nothing, and ends when it is done.
 *
 * Everything in the archive is committed (extension patch 0011), so all of it may be applied.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { chmod, chown, mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { asPostgres, lowerPriority, poll } from "@quorate/common";
import type { PostgresOwner } from "../environment.ts";
import { sidecarErrors } from "../error-codes.ts";
import { cleanEnvironment } from "../postgres-process.ts";
import { type LocalServer, localQuery } from "./local-sql.ts";
import { defaultSegmentBytes } from "./wal-archive.ts";

export type ReplayTarget =
  /** To the end of the archive, and no further decision: the node will follow a leader. */
  | { readonly kind: "standby" }
  | { readonly kind: "latest" }
  | { readonly kind: "time"; readonly time: string }
  | { readonly kind: "lsn"; readonly lsn: string }
  | { readonly kind: "name"; readonly name: string };

export type ReplayOptions = {
  readonly binDir: string;
  readonly data: string;
  readonly owner: PostgresOwner;
  readonly osUser: string;
  /** Text of the restore_command script (see getScript). */
  readonly getScript: string;
  readonly timeline: number;
  readonly target: ReplayTarget;
  /** For a standby: the end of the last segment in the archive. */
  readonly endLsn: bigint | null;
  readonly logFile: string;
  readonly signal: AbortSignal;
  readonly niceness?: number | undefined;
  readonly onProgress?: (lsn: string) => void;
};

const port = 5432;
const pollIntervalMs = 100;
const startTimeoutMs = 24 * 3_600_000;
const stopTimeoutMs = 600_000;

/** Everything that was in the backup and must not work here. */
const fixedSettings: Readonly<Record<string, string>> = {
  listen_addresses: "",
  port: String(port),
  shared_preload_libraries: "quorate",
  "quorate.restoring": "on",
  archive_mode: "off",
  archive_command: "",
  primary_conninfo: "",
  primary_slot_name: "",
  sync_replication_slots: "off",
  hot_standby: "on",
  fsync: "off",
  full_page_writes: "on",
  wal_level: "logical",
  restart_after_crash: "off",
  synchronous_standby_names: "",
  logging_collector: "off",
  log_destination: "stderr",
  log_min_messages: "warning",
  external_pid_file: "",
  ssl: "off",
  recovery_target_inclusive: "on",
  recovery_end_command: "",
  archive_cleanup_command: "",
};

const targetNames = [
  "recovery_target",
  "recovery_target_xid",
  "recovery_target_time",
  "recovery_target_lsn",
  "recovery_target_name",
] as const;

/** In this order: Postgres takes even an empty target behind another one for a second target. */
export function targetSettings(target: ReplayTarget, timeline: number): Record<string, string> {
  const base = { recovery_target_timeline: String(timeline), recovery_target_action: "promote" };
  const only = (name: (typeof targetNames)[number] | null, value: string): Record<string, string> => ({
    ...base,
    ...Object.fromEntries(targetNames.filter((each) => each !== name).map((each) => [each, ""])),
    ...(name === null ? {} : { [name]: value }),
  });
  switch (target.kind) {
    case "standby":
    case "latest":
      return only(null, "");
    case "time":
      return only("recovery_target_time", target.time);
    case "lsn":
      return only("recovery_target_lsn", target.lsn);
    case "name":
      return only("recovery_target_name", target.name);
  }
}

/** A Postgres that replays; `work` may use it once it is where it should be. */
export async function replayArchive(
  options: ReplayOptions,
  work: (client: ReplayClient) => Promise<void> = async () => undefined,
): Promise<void> {
  const { data, owner, target } = options;
  const scratch = `${data}.replay`;
  await makePrivate(scratch, owner);
  const script = path.join(scratch, "pgbackrest-archive-get");
  await writeFile(script, options.getScript, { mode: 0o755 });
  await chmod(script, 0o755);
  for (const file of ["standby.signal", "recovery.signal"]) await rm(path.join(data, file), { force: true });
  const signalFile = path.join(data, target.kind === "standby" ? "standby.signal" : "recovery.signal");
  await writeFile(signalFile, "", { mode: 0o600 });
  const hbaFile = path.join(scratch, "pg_hba.conf");
  await writeFile(hbaFile, "local all all trust\n", { mode: 0o644 });
  if (owner !== undefined) await chown(signalFile, owner.uid, owner.gid);
  const server = start(options, scratch, script);
  try {
    const client = replayClient(scratch);
    await reachEnd(options, server, client);
    await work(client);
    await server.stop("SIGINT");
  } finally {
    await server.stop("SIGQUIT");
    await rm(signalFile, { force: true });
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function makePrivate(directory: string, owner: PostgresOwner): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { mode: 0o700 });
  if (owner !== undefined) await chown(directory, owner.uid, owner.gid);
}

type ReplayServer = {
  readonly problem: () => string | null;
  readonly stop: (signal: NodeJS.Signals) => Promise<void>;
};

function start(options: ReplayOptions, scratch: string, script: string): ReplayServer {
  const { binDir, data, logFile, osUser, target, timeline } = options;
  const settings = {
    ...fixedSettings,
    ...targetSettings(target, timeline),
    unix_socket_directories: scratch,
    restore_command: `${script} %f %p`,
    hba_file: path.join(scratch, "pg_hba.conf"),
  };
  const args = [
    "-D",
    data,
    ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
  ];
  mkdirSync(path.dirname(logFile), { recursive: true });
  const log = openSync(logFile, "w");
  const child: ChildProcess = spawn(
    path.join(binDir, "postgres"),
    args,
    asPostgres({ stdio: ["ignore", log, log], cwd: scratch, env: cleanEnvironment() }, osUser),
  );
  lowerPriority(child.pid, options.niceness);
  let ended: string | null = null;
  const exited = new Promise<void>((resolve) => {
    child.once("error", (error) => {
      ended = error.message;
      resolve();
    });
    child.once("exit", (code, signal) => {
      ended ??=
        code === 0 ? "it ended" : `it ended with ${signal ?? `exit code ${code}`}: ${lastWords(logFile)}`;
      resolve();
    });
  });
  return {
    problem: () => ended,
    stop: async (signal) => {
      if (ended !== null) return;
      child.kill(signal);
      const late = setTimeout(() => child.kill("SIGKILL"), stopTimeoutMs);
      await exited.finally(() => clearTimeout(late));
    },
  };
}

/** The server's own reason, without the lines around it. */
function lastWords(logFile: string): string {
  return reasonIn(readFileSync(logFile, "utf8"));
}

/** That we asked before it could answer is no reason for anything. Pure. */
export function reasonIn(log: string): string {
  const lines = log.trimEnd().split("\n");
  const reasons = lines.filter(
    (line) =>
      /\b(FATAL|PANIC|ERROR|DETAIL|HINT):/.test(line) &&
      !/the database system is (?:starting up|shutting down|not (?:yet )?accepting connections)|Consistent recovery state has not been yet reached|Recovery snapshot is not yet ready/.test(
        line,
      ),
  );
  return (reasons.length > 0 ? reasons.slice(-3) : lines.slice(-3))
    .map((line) => line.replace(/^.*?(FATAL|PANIC|ERROR|DETAIL|HINT): +/, ""))
    .join("; ");
}

/** The replaying server, on its private socket. */
export type ReplayClient = LocalServer & {
  query(sql: string, database?: string): Promise<Record<string, unknown>[]>;
};

function replayClient(socketDirectory: string): ReplayClient {
  const server = { socketDirectory, port };
  // Statements take as long as they take: amcheck of a large table, for instance.
  const query = (sql: string, database = "postgres") =>
    localQuery(server, sql, { database, statementTimeoutMs: 0 });
  return { ...server, query };
}

/** A record that crosses into a segment that isn't archived yet keeps replay from reaching the very end. */
const settledMs = 500;

const positionSql =
  "select pg_is_in_recovery() as recovering, coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn())::text as lsn, " +
  "(coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn()) - '0/0'::pg_lsn)::text as bytes";

async function reachEnd(options: ReplayOptions, server: ReplayServer, client: ReplayClient): Promise<void> {
  const { signal, target, endLsn, onProgress } = options;
  let last = "";
  let sinceMs = 0;
  await poll(
    async () => {
      signal.throwIfAborted();
      const problem = server.problem();
      if (problem !== null) throw sidecarErrors.error("replay_failed", `replaying the archive: ${problem}`);
      // No answer: it has not reached a consistent state yet.
      const rows = await client.query(positionSql).catch(() => undefined);
      const row = rows?.[0];
      if (row === undefined) return undefined;
      const lsn = String(row["lsn"]);
      onProgress?.(lsn);
      if (target.kind !== "standby") return row["recovering"] === false || undefined;
      if (lsn !== last) {
        last = lsn;
        sinceMs = performance.now();
      }
      const leftBytes = endLsn === null ? 0n : endLsn - BigInt(String(row["bytes"]));
      // Wherever it stops is right: it follows a leader from there.
      const settled = performance.now() - sinceMs > settledMs;
      return leftBytes <= 0n || (settled && leftBytes < BigInt(defaultSegmentBytes)) || undefined;
    },
    { what: "the archive to be replayed", timeoutMs: startTimeoutMs, intervalMs: pollIntervalMs },
  );
}
