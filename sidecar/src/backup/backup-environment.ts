/** Before anything starts: pgBackRest's directories, configuration and scripts, with the owner and rights they need. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { codeOf, messageOf } from "@quorate/common";
import { ConfigError, type SidecarConfig } from "../config.ts";
import { type PostgresOwner, readSecret } from "../environment.ts";
import { type BackupConfig, remoteRepository } from "./backup-config.ts";
import {
  type BackupPaths,
  type BackupSecrets,
  type LocalPostgres,
  pgbackrestConf,
  pushScript,
  repositoryPath,
  servedConf,
} from "./pgbackrest-conf.ts";

export type PrepareOptions = {
  readonly config: Pick<SidecarConfig, "host"> & { readonly backup: BackupConfig };
  readonly paths: BackupPaths;
  readonly stanza: string;
  readonly postgres: LocalPostgres;
  readonly owner: PostgresOwner;
};

/** A node that reaches the repository through another one needs none: that one encrypts. */
export function readBackupSecrets(config: BackupConfig, host: string): BackupSecrets {
  const { repository, cipherKeyFile } = config;
  if (remoteRepository(config, host) !== null) return { cipherKey: null, s3Key: null, s3KeySecret: null };
  const secret = (file: string | null | undefined, what: string): string | null =>
    file === null || file === undefined ? null : readSecret(file, `backup.${what}`);
  const s3 = repository.type === "s3" ? repository : undefined;
  return {
    cipherKey: secret(cipherKeyFile, "cipherKeyFile"),
    s3Key: secret(s3?.keyFile, "repository.keyFile"),
    s3KeySecret: secret(s3?.keySecretFile, "repository.keySecretFile"),
  };
}

/** Throws ConfigError. The repository itself may be out of reach: that is an alarm, no reason not to start. */
export function prepareBackup(options: PrepareOptions): void {
  const { config, paths, stanza, owner } = options;
  const { backup } = config;
  try {
    accessSync(backup.pgbackrest, constants.X_OK);
  } catch {
    throw new ConfigError(
      `${backup.pgbackrest} is not an executable: set backup.pgbackrest to pgBackRest 2.57 or newer`,
    );
  }
  const secrets = readBackupSecrets(backup, config.host);
  try {
    for (const directory of [paths.root, paths.log, paths.spool]) makeDirectory(directory, owner);
    copyCertificates(backup, paths, owner);
    writeOwned(paths.conf, confText(options, secrets), 0o600, owner);
    writeOwned(paths.pushScript, pushScript(backup, stanza, paths), 0o700, owner);
  } catch (error) {
    throw new ConfigError(`can't prepare ${paths.root}: ${messageOf(error)}`);
  }
  const { repository } = backup;
  if (repository.type !== "posix" || remoteRepository(backup, config.host) !== null) {
    makeDirectory(paths.lock, owner);
    return;
  }
  // Only what we make ourselves gets an owner: a mounted repository keeps its.
  for (const directory of [repository.path, repositoryPath(backup), paths.lock]) {
    try {
      // Not its parents: where they are missing, something isn't mounted.
      if (!existsSync(directory)) makeDirectory(directory, owner, false);
    } catch {
      return; // pgBackRest will say it, again and again, as an alarm
    }
  }
}

function confText({ config, paths, stanza, postgres }: PrepareOptions, secrets: BackupSecrets): string {
  const { backup, host } = config;
  return pgbackrestConf({ config: backup, stanza, paths, postgres, secrets, host });
}

/** On the node that has the repository, for those that reach it over TLS. Only its sidecar does this. */
export function serveRepository(options: PrepareOptions): void {
  const { config, owner } = options;
  const file = servedConf(config.backup);
  if (file === null || remoteRepository(config.backup, config.host) !== null) return;
  try {
    writeOwned(file, confText(options, readBackupSecrets(config.backup, config.host)), 0o600, owner);
  } catch (error) {
    // As for the repository itself: where it isn't mounted, pgBackRest will say it.
    if (codeOf(error) !== "ENOENT") throw error;
  }
}

/**
 * True: they are others than before. They are copied because their keys belong to whom the sidecar runs as. Throws if
 * key and certificate don't belong together: they are replaced one after the other, and pgBackRest's server would end.
 */
export function copyCertificates({ tls }: BackupConfig, paths: BackupPaths, owner: PostgresOwner): boolean {
  if (tls === undefined) return false;
  const [ca, cert, key] = [tls.caFile, tls.certFile, tls.keyFile].map((file) => readFileSync(file, "utf8"));
  if (ca === undefined || cert === undefined || key === undefined) return false;
  if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey(key)))
    throw new Error(`${tls.keyFile} is not the key of ${tls.certFile}`);
  makeDirectory(paths.tls.directory, owner);
  const files = [
    [ca, paths.tls.ca],
    [cert, paths.tls.cert],
    [key, paths.tls.key],
  ] as const;
  let changed = false;
  for (const [content, to] of files) {
    if (existsSync(to) && readFileSync(to, "utf8") === content) continue;
    writeOwned(to, content, 0o600, owner);
    changed = true;
  }
  return changed;
}

function makeDirectory(directory: string, owner: PostgresOwner, recursive = true): void {
  mkdirSync(directory, { recursive, mode: 0o700 });
  if (owner !== undefined && statSync(directory).uid !== owner.uid)
    chownSync(directory, owner.uid, owner.gid);
}

function writeOwned(file: string, content: string, mode: number, owner: PostgresOwner): void {
  writeFileSync(file, content, { mode });
  chmodSync(file, mode);
  if (owner !== undefined) chownSync(file, owner.uid, owner.gid);
}
