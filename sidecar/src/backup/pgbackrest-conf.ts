/** What pgBackRest reads: its configuration file and the scripts that Postgres calls. Pure; secrets come as values. */
import { type BackupConfig, remoteRepository } from "./backup-config.ts";

export type BackupPaths = {
  /** nodes/<id>/backup: everything below belongs to Postgres's owner. */
  readonly root: string;
  readonly conf: string;
  /** archive_command. Its name must contain "pgbackrest", or pgBackRest refuses to make a backup. */
  readonly pushScript: string;
  /** The repository has a place for this cluster; without it nothing is pushed. */
  readonly readyFile: string;
  /** Exit code and words of the last push that failed. */
  readonly errorFile: string;
  /** WAL was dropped because too much of it waited. */
  readonly droppedFile: string;
  readonly log: string;
  readonly spool: string;
  readonly lock: string;
  /** Copies of the certificates (`backup.tls`) that Postgres's owner can read. */
  readonly tls: CertificatePaths;
  /** Where a restore test happens; removed afterwards. */
  readonly scratch: string;
};

export type CertificatePaths = {
  readonly directory: string;
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
};

/** `host`: of this node. */
export function backupPaths(nodeRoot: string, config: BackupConfig, host: string): BackupPaths {
  const root = `${nodeRoot}/backup`;
  const { repository } = config;
  const local = repository.type === "posix" && remoteRepository(config, host) === null;
  const tls = `${root}/tls`;
  return {
    root,
    conf: `${root}/pgbackrest.conf`,
    pushScript: `${root}/pgbackrest-archive-push`,
    readyFile: `${root}/stanza.ready`,
    errorFile: `${root}/push.error`,
    droppedFile: `${root}/push.dropped`,
    log: `${root}/log`,
    spool: `${root}/spool`,
    // Nodes that share a directory share the lock: then pgBackRest itself never lets two of them make a backup.
    lock: local ? `${repository.path}/lock` : `${root}/lock`,
    tls: { directory: tls, cert: `${tls}/cert.pem`, key: `${tls}/key.pem`, ca: `${tls}/ca.pem` },
    scratch: `${root}/restore-test`,
  };
}

export type LocalPostgres = {
  readonly dataDirectory: string;
  readonly socketDirectory: string;
  readonly port: number;
};

export type BackupSecrets = {
  readonly cipherKey: string | null;
  readonly s3Key: string | null;
  readonly s3KeySecret: string | null;
};

/** The repository's own directory; beside it lies the lock. */
export function repositoryPath(config: BackupConfig): string {
  const { repository } = config;
  return repository.type === "posix" ? `${repository.path}/repository` : repository.path;
}

/** What pgBackRest's server reads when other nodes ask it for a repository that lies here: they know only its path. */
export function servedConf(config: BackupConfig): string | null {
  const { repository } = config;
  return repository.type === "posix" && repository.host !== undefined
    ? `${repository.path}/served.conf`
    : null;
}

type Lines = readonly (readonly [string, string | number])[];

function hostLines(
  prefix: string,
  place: { host: string; port: number },
  conf: string,
  tls: CertificatePaths,
) {
  return [
    [`${prefix}-host`, place.host],
    [`${prefix}-host-type`, "tls"],
    [`${prefix}-host-port`, place.port],
    [`${prefix}-host-config`, conf],
    [`${prefix}-host-cert-file`, tls.cert],
    [`${prefix}-host-key-file`, tls.key],
    [`${prefix}-host-ca-file`, tls.ca],
  ] as const;
}

function repositoryLines({ config, secrets, host, paths }: ConfInput): Lines {
  const { repository } = config;
  const remote = remoteRepository(config, host);
  const conf = servedConf(config);
  if (remote !== null && conf !== null) return hostLines("repo1", remote, conf, paths.tls);
  if (repository.type === "s3")
    return [
      ["repo1-type", "s3"],
      ["repo1-path", repository.path],
      ["repo1-s3-bucket", repository.bucket],
      ["repo1-s3-endpoint", repository.endpoint],
      ["repo1-s3-region", repository.region],
      ["repo1-s3-uri-style", repository.uriStyle],
      ...(secrets.s3Key === null || secrets.s3KeySecret === null
        ? ([["repo1-s3-key-type", "auto"]] as const)
        : ([
            ["repo1-s3-key", secrets.s3Key],
            ["repo1-s3-key-secret", secrets.s3KeySecret],
          ] as const)),
      ...(repository.port === undefined ? [] : ([["repo1-storage-port", repository.port]] as const)),
      ...(repository.caFile === undefined ? [] : ([["repo1-storage-ca-file", repository.caFile]] as const)),
      ...(repository.verifyTls ? [] : ([["repo1-storage-verify-tls", "n"]] as const)),
    ];
  return [["repo1-path", repositoryPath(config)]];
}

function retentionLines({ retention }: BackupConfig): Lines {
  const { full, days, diff } = retention;
  return [
    ["repo1-retention-full-type", days === undefined ? "count" : "time"],
    ["repo1-retention-full", days ?? full],
    ...(diff === undefined ? [] : ([["repo1-retention-diff", diff]] as const)),
  ];
}

function serverLines({ config, host, paths }: ConfInput): Lines {
  const { tls } = config;
  if (tls === undefined) return [];
  return [
    ["tls-server-address", host],
    ["tls-server-port", tls.port],
    ["tls-server-cert-file", paths.tls.cert],
    ["tls-server-key-file", paths.tls.key],
    ["tls-server-ca-file", paths.tls.ca],
    ...tls.clients.map((client) => ["tls-server-auth", `${client}=${"*"}`] as const),
  ];
}

export type ConfInput = {
  readonly config: BackupConfig;
  readonly stanza: string;
  readonly paths: BackupPaths;
  readonly postgres: LocalPostgres;
  readonly secrets: BackupSecrets;
  readonly host: string;
};

export function pgbackrestConf(input: ConfInput): string {
  const { config, stanza, paths, postgres, secrets, host } = input;
  const here = remoteRepository(config, host) === null;
  const archiveAsync = config.archive.async ?? config.repository.type === "s3";
  const cipher: Lines =
    secrets.cipherKey === null || !here
      ? []
      : [
          ["repo1-cipher-type", "aes-256-cbc"],
          ["repo1-cipher-pass", secrets.cipherKey],
        ];
  const global: Lines = [
    ...repositoryLines(input),
    ...cipher,
    ...retentionLines(config),
    // One file for many small ones, and only the changed parts of big ones.
    ...(here
      ? ([
          ["repo1-bundle", "y"],
          ["repo1-block", "y"],
        ] as const)
      : []),
    ["log-path", paths.log],
    ["spool-path", paths.spool],
    ["lock-path", paths.lock],
    ["log-level-file", "info"],
    ["log-level-console", "warn"],
    ["compress-type", "zst"],
    ["compress-level", 1],
    ["process-max", config.processes],
    ["start-fast", "y"],
    ["archive-async", archiveAsync ? "y" : "n"],
    ["archive-push-queue-max", config.archive.limitBytes],
    ["archive-timeout", 60],
    ...serverLines(input),
  ];
  const local: Lines = [
    ["pg1-path", postgres.dataDirectory],
    ["pg1-port", postgres.port],
    ["pg1-socket-path", postgres.socketDirectory],
    ["pg1-user", "postgres"],
    ["pg1-database", "postgres"],
  ];
  return [
    "# Written by the sidecar at its start: change the backup section of sidecar.json instead.",
    "[global]",
    ...global.map(([name, value]) => `${name}=${value}`),
    "",
    `[${stanza}]`,
    ...local.map(([name, value]) => `${name}=${value}`),
    "",
  ].join("\n");
}

export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * Until the repository has a place for us there is nothing to push to: fail quietly, Postgres comes back; but what waits
 * is bounded then, too, so pgBackRest is asked each time. What went wrong, and that WAL was dropped
 * (archive-push-queue-max), is left in files for the sidecar, which says it in status.
 */
export function pushScript(config: BackupConfig, stanza: string, paths: BackupPaths): string {
  const options = `--config=${shellQuote(paths.conf)} --stanza=${shellQuote(stanza)}`;
  return [
    "#!/bin/sh",
    "# archive_command. Written by the sidecar.",
    `output=$(${shellQuote(config.pgbackrest)} ${options} archive-push "$1" 2>&1)`,
    "code=$?",
    `[ $code -eq 0 ] || [ -e ${shellQuote(paths.readyFile)} ] || exit 1`,
    `[ -z "$output" ] || printf '%s\n' "$output" >&2`,
    'case "$output" in',
    `  *"dropped WAL file"*) printf '%s\n' "$1" > ${shellQuote(paths.droppedFile)} ;;`,
    "esac",
    "if [ $code -eq 0 ]; then",
    `  [ ! -e ${shellQuote(paths.errorFile)} ] || rm -f ${shellQuote(paths.errorFile)}`,
    "else",
    `  printf '%s\n%s\n' "$code" "$output" > ${shellQuote(paths.errorFile)}`,
    "fi",
    "exit $code",
    "",
  ].join("\n");
}

/** restore_command of a server that replays the archive: fetches segments, and only the histories that exist. */
export function getScript(
  config: BackupConfig,
  stanza: string,
  conf: string,
  dataDirectory: string,
  histories: readonly string[],
): string {
  const options = `--config=${shellQuote(conf)} --stanza=${shellQuote(stanza)} --pg1-path=${shellQuote(dataDirectory)}`;
  const known = histories.length === 0 ? "none" : histories.join("|");
  return [
    "#!/bin/sh",
    "# restore_command. Terms are sparse: Postgres asks for each timeline's history, most of which never existed.",
    'case "$1" in',
    `  ${known}) ;;`,
    "  *.history) exit 1 ;;",
    "esac",
    `exec ${shellQuote(config.pgbackrest)} ${options} --archive-async=n archive-get "$1" "$2"`,
    "",
  ].join("\n");
}

export type RemotePostgres = LocalPostgres & {
  /** Unset: on this machine. `conf`: of its pgBackRest, there. */
  readonly tls?: { readonly host: string; readonly port: number; readonly conf: string };
};

/**
 * Another node that a backup needs: the leader for a backup that a follower makes, or a follower whose files are
 * copied for a leader that has the repository. Nothing secret: this goes on the command line.
 */
export function otherNodeOptions(paths: BackupPaths, other: RemotePostgres): string[] {
  const { tls } = other;
  const host = tls === undefined ? [] : hostLines("pg2", tls, tls.conf, paths.tls);
  return [
    `--pg2-path=${other.dataDirectory}`,
    `--pg2-port=${other.port}`,
    `--pg2-socket-path=${other.socketDirectory}`,
    "--pg2-user=postgres",
    "--pg2-database=postgres",
    "--backup-standby=y",
    ...host.map(([name, value]) => `--${name}=${value}`),
  ];
}
