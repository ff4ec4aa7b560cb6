/**
 * Postgres refuses to run as root. Whoever starts a program that works on a data directory goes through here: root
 * becomes the unprivileged user, anybody else stays who he is.
 */
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { chown, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { commonErrors } from "./error-codes.ts";
import { type RunOptions, type RunResult, run } from "./run.ts";

export type OsUser = {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
};

/** A line of the passwd database, or undefined. */
export function findOsUser(name: string, passwd = readFileSync("/etc/passwd", "utf8")): OsUser | undefined {
  for (const line of passwd.split("\n")) {
    const [user, , uid, gid, , home] = line.split(":");
    if (user === name && uid !== undefined && gid !== undefined) {
      return { name, uid: Number(uid), gid: Number(gid), home: home ?? "/" };
    }
  }
  return undefined;
}

/** The user that Postgres should run as, or undefined when we aren't root: then it runs as ourselves. */
export function postgresUser(name = "postgres"): OsUser | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const user = findOsUser(name);
  if (user === undefined || user.uid === 0) {
    throw commonErrors.error(
      "no_such_os_user",
      `Postgres must not run as root, and the user "${name}" ${user === undefined ? "does not exist" : "is root"}: ` +
        `create it (useradd --system ${name}) or start Quorate as an ordinary user`,
    );
  }
  return user;
}

/** Spawn options that make the child the unprivileged user, with a matching environment. */
export function asPostgres<T extends SpawnOptions>(options: T, userName = "postgres"): T {
  const user = postgresUser(userName);
  if (user === undefined) return options;
  const env = { ...(options.env ?? process.env), HOME: user.home, USER: user.name, LOGNAME: user.name };
  return { ...options, uid: user.uid, gid: user.gid, env };
}

export function spawnAsPostgres(
  command: string,
  args: readonly string[],
  options: SpawnOptions = {},
  userName?: string,
): ChildProcess {
  return spawn(command, args, asPostgres(options, userName));
}

/** Runs a program to its end as the unprivileged user. */
export function runAsPostgres(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
  userName = "postgres",
): Promise<RunResult> {
  const user = postgresUser(userName);
  return run(command, args, user === undefined ? options : { ...options, user });
}

/** A new directory that belongs to the user that Postgres runs as. */
export async function makePostgresTempDirectory(prefix = "quorate-", userName = "postgres"): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), prefix));
  const user = postgresUser(userName);
  if (user !== undefined) await chown(directory, user.uid, user.gid);
  return directory;
}
