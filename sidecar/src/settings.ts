/** The configuration of Postgres as text. Pure. */

import { backupPaths, shellQuote } from "./backup/pgbackrest-conf.ts";
import type { SidecarConfig } from "./config.ts";
import type { NodePaths } from "./paths.ts";
import { copierSlot } from "./slots/slot-plan.ts";

/** For SQL on the node's own socket (docs/sidecar.md). */
export const controlUser = "quorate_control";

type Setting = string | number | boolean;
type Settings = Readonly<Record<string, Setting>>;

/** Sensible on a small machine; sidecar.json may change them. */
export const defaultSettings: Settings = {
  shared_buffers: "64MB",
  max_connections: 100,
  max_wal_senders: 20,
  max_replication_slots: 20,
  wal_keep_size: "1GB",
  max_slot_wal_keep_size: "4GB",
  max_wal_size: "1GB",
  wal_sender_timeout: "5s",
  wal_receiver_timeout: "5s",
  wal_retrieve_retry_interval: "100ms",
  wal_receiver_status_interval: "1s",
  // Logical slots made with failover = true are copied to the followers (slots/slot-keeper.ts), which asks for feedback.
  sync_replication_slots: true,
  hot_standby_feedback: true,
  // After a crash: one call instead of one per file. A rejoin may not take seconds for that.
  recovery_init_sync_method: "syncfs",
  password_encryption: "scram-sha-256",
  logging_collector: false,
  log_destination: "stderr",
  log_line_prefix: "%m [%p] %q%u@%d ",
  log_checkpoints: true,
  log_min_messages: "warning",
  timezone: "UTC",
  log_timezone: "UTC",
};

/** The cluster's safety rests on these: they go on the command line, where ALTER SYSTEM can't change them. */
export function safetySettings(config: SidecarConfig, paths: NodePaths): Settings {
  return {
    listen_addresses: config.host,
    port: config.ports.postgres,
    unix_socket_directories: paths.run,
    wal_level: "logical",
    fsync: true,
    full_page_writes: true,
    hot_standby: true,
    restart_after_crash: false,
    recovery_target_timeline: "latest",
    synchronous_standby_names: "",
    primary_slot_name: copierSlot,
    "quorate.node_id": config.node.id,
    "quorate.control_socket": paths.controlSocket,
    // The same on all nodes: whoever replaces a leader that he can't fence waits this long.
    "quorate.lease": "500ms",
    ...tlsSettings(config, paths),
    ...archiveSettings(config, paths),
  };
}

/** The files may change at any time; Postgres reads them again at a SIGHUP. */
function tlsSettings({ tls }: SidecarConfig, paths: NodePaths): Settings {
  if (tls === undefined) return { ssl: false };
  const { ca, cert, key } = paths.tls;
  return {
    ssl: true,
    ssl_ca_file: ca,
    ssl_cert_file: cert,
    ssl_key_file: key,
    ssl_min_protocol_version: "TLSv1.2",
  };
}

/** Only a leader's archiver pushes ("on", not "always"), and only what the quorum has committed. */
function archiveSettings({ backup, host }: SidecarConfig, paths: NodePaths): Settings {
  if (backup === undefined) return {};
  return {
    archive_mode: "on",
    archive_command: `${shellQuote(backupPaths(paths.root, backup, host).pushScript)} %p`,
    archive_timeout: `${backup.archive.timeoutSeconds}s`,
  };
}

/** Settings that sidecar.json must not override. */
export const protectedSettings: ReadonlySet<string> = new Set([
  "data_directory",
  "fsync",
  "full_page_writes",
  "hot_standby",
  "listen_addresses",
  "port",
  "primary_conninfo",
  "primary_slot_name",
  "quorate.control_socket",
  "quorate.lease",
  "quorate.node_id",
  "recovery_target_timeline",
  "restart_after_crash",
  "ssl",
  "ssl_ca_file",
  "ssl_cert_file",
  "ssl_key_file",
  "ssl_min_protocol_version",
  "synchronous_standby_names",
  "unix_socket_directories",
  "wal_level",
]);

/** shared_preload_libraries with our library in it, first, whatever else the operator wants there. */
function preloadLibraries(wanted: Setting | undefined): string {
  const others = String(wanted ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "" && name !== "quorate");
  return ["quorate", ...others].join(",");
}

/** The operator may do without copies of logical slots. */
export function copiesSlots({ postgres }: SidecarConfig): boolean {
  const { sync_replication_slots: wanted = true } = postgres.settings;
  return !/^(off|false|no|0)$/i.test(String(wanted));
}

export function quorateConf(config: SidecarConfig, paths: NodePaths): string {
  const settings: Settings = {
    ...defaultSettings,
    ...config.postgres.settings,
    ...safetySettings(config, paths),
    shared_preload_libraries: preloadLibraries(config.postgres.settings["shared_preload_libraries"]),
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${quoteSetting(value)}`);
  return [
    "# Written by the sidecar at each start of Postgres: change sidecar.json instead.",
    ...lines,
    `include_if_exists '${leaderConfFile}'`,
    "",
  ].join("\n");
}

/** Arguments for `postgres`. */
export function postgresArguments(config: SidecarConfig, paths: NodePaths): string[] {
  const settings: Settings = {
    ...safetySettings(config, paths),
    shared_preload_libraries: preloadLibraries(config.postgres.settings["shared_preload_libraries"]),
  };
  const pairs = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${settingText(value)}`]);
  return ["-D", paths.data, ...pairs];
}

function settingText(value: Setting): string {
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

function quoteSetting(value: Setting): string {
  return `'${settingText(value).replaceAll("'", "''")}'`;
}

/**
 * The local socket lies in a directory that only Postgres's owner can enter. Over TCP everybody needs a password, and
 * with certificates TLS, unless he is on this machine; other nodes show their certificate besides. Who has no business
 * over TCP is refused whatever he shows.
 */
export function pgHba(config: SidecarConfig): string {
  const { user } = config.replication;
  const rule = (type: string, database: string, who: string, address: string, method: string): string =>
    [type.padEnd(9), database.padEnd(11), who.padEnd(19), address.padEnd(8), method].join(" ").trimEnd();
  const everybody =
    config.tls === undefined || config.postgres.allowPlain
      ? [rule("host", "all", "all", "all", "scram-sha-256")]
      : [
          rule("hostssl", "all", "all", "all", "scram-sha-256"),
          rule("host", "all", "all", "samehost", "scram-sha-256"),
        ];
  return [
    "# Written by the sidecar at each start of Postgres.",
    rule("# TYPE", "DATABASE", "USER", "ADDRESS", "METHOD"),
    rule("local", "all", "all", "", "trust"),
    rule("local", "replication", "all", "", "trust"),
    rule("host", "all", `postgres,${controlUser}`, "all", "reject"),
    config.tls === undefined
      ? rule("host", "replication", user, "all", "scram-sha-256")
      : rule("hostssl", "replication", user, "all", "scram-sha-256 clientcert=verify-ca"),
    // The copier of logical slots; it may look at the list of slots there, and at nothing else.
    config.tls === undefined
      ? rule("host", "postgres", user, "all", "scram-sha-256")
      : rule("hostssl", "postgres", user, "all", "scram-sha-256 clientcert=verify-ca"),
    rule("host", "all", user, "all", "reject"),
    rule("host", "replication", "all", "all", "reject"),
    ...everybody,
    "",
  ].join("\n");
}

/** In the data directory: whom the copier of logical slots asks. */
export const leaderConfFile = "quorate-leader.conf";

export const includeLine = "include 'quorate.conf'";

/** postgresql.conf with our include as its last line, exactly once. */
export function withInclude(postgresqlConf: string): string {
  const kept = postgresqlConf.split("\n").filter((line) => line.trim() !== includeLine);
  while (kept.at(-1) === "") kept.pop();
  return [...kept, includeLine, ""].join("\n");
}
