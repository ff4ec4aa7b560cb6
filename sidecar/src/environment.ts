/** Before anything starts: what must be on the machine, the node's directories, their owners, and the lock. */
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { codeOf, isAlive, messageOf, type OsUser, postgresUser } from "@quorate/common";
import { ConfigError, type SidecarConfig } from "./config.ts";
import { passFileText } from "./conninfo.ts";
import type { NodePaths } from "./paths.ts";
import { installTls } from "./postgres-tls.ts";

/** undefined: Postgres runs as ourselves. */
export type PostgresOwner = OsUser | undefined;

const neededPrograms = ["postgres", "initdb", "pg_basebackup", "pg_controldata"];

/** Creates the directories of a node and checks everything that only a human could repair. Throws ConfigError. */
export function prepareEnvironment(config: SidecarConfig, paths: NodePaths): PostgresOwner {
  const owner = findOwner(config);
  for (const program of neededPrograms) {
    const file = join(config.postgres.binDir, program);
    try {
      accessSync(file, constants.X_OK);
    } catch {
      throw new ConfigError(
        `${file} is not an executable: set postgres.binDir to the bin directory of Postgres`,
      );
    }
  }
  const replicationPassword = readSecret(config.replication.passwordFile, "replication.passwordFile");
  try {
    mkdirSync(paths.root, { recursive: true });
    makeDirectory(paths.state, 0o700, undefined);
    makeDirectory(paths.run, 0o700, owner);
    makeDirectory(paths.log, 0o755, undefined);
    writeFileSync(paths.passFile, passFileText(config.replication.user, replicationPassword), {
      mode: 0o600,
    });
    chmodSync(paths.passFile, 0o600);
    if (owner !== undefined) chownSync(paths.passFile, owner.uid, owner.gid);
    if (config.tls !== undefined) installTls(config.tls, paths, owner);
  } catch (error) {
    throw new ConfigError(`can't prepare ${paths.root}: ${messageOf(error)}`);
  }
  if (owner !== undefined)
    for (const directory of [paths.root, config.postgres.binDir]) checkReachable(directory, owner);
  return owner;
}

function findOwner(config: SidecarConfig): PostgresOwner {
  try {
    return postgresUser(config.postgres.osUser);
  } catch (error) {
    throw new ConfigError(messageOf(error));
  }
}

function makeDirectory(directory: string, mode: number, owner: PostgresOwner): void {
  mkdirSync(directory, { recursive: true });
  chmodSync(directory, mode);
  if (owner !== undefined) chownSync(directory, owner.uid, owner.gid);
}

/** Postgres must be able to enter every directory above its own. */
function checkReachable(directory: string, owner: OsUser): void {
  for (let at = directory; ; at = dirname(at)) {
    const { mode, uid, gid } = statSync(at);
    const bit = uid === owner.uid ? 0o100 : gid === owner.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0)
      throw new ConfigError(
        `the user ${owner.name}, who runs Postgres, can't enter ${at}: chmod o+x it or choose another directory`,
      );
    if (at === dirname(at)) return;
  }
}

export function readSecret(file: string, what: string): string {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new ConfigError(`can't read the file that ${what} names: ${messageOf(error)}`);
  }
  const secret = text.replace(/\r?\n$/, "");
  if (!/^[\x20-\x7e]+$/.test(secret))
    throw new ConfigError(`${file} (${what}) must hold one line of printable ASCII: the password`);
  return secret;
}

/** One sidecar per node. Throws ConfigError when another one lives; a dead one's file is replaced. */
export function takePidFile(file: string): void {
  const other = readPidFile(file);
  if (other !== null && other !== process.pid && isSidecar(other))
    throw new ConfigError(`another sidecar (pid ${other}, ${file}) serves this node: stop it first`);
  writeFileSync(file, `${process.pid}\n`);
}

export function releasePidFile(file: string): void {
  if (readPidFile(file) === process.pid) rmSync(file, { force: true });
}

function readPidFile(file: string): number | null {
  try {
    const pid = Number(readFileSync(file, "utf8").trim());
    return Number.isInteger(pid) && pid > 1 ? pid : null;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}

/** The pid may have been given to something else since. */
function isSidecar(pid: number): boolean {
  if (!isAlive(pid)) return false;
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes("--config");
  } catch {
    return false;
  }
}
