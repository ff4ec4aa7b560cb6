/**
 * Giving up root: a gateway speaks with whoever reaches its port, and needs none of root's rights once it has what it
 * reads. It goes before it listens (listeners that share a port must belong to the same user) and before it has threads.
 */
import { closeSync, openSync } from "node:fs";
import { findOsUser, type Logger, messageOf } from "@quorate/common";
import { ConfigError } from "./config.ts";

/** Files that it opens later (threads, the parser): their names as of any module's `import.meta`. */
const needed = ["./workers/thread.ts", "libpg-query"];

function readable(resolve: (name: string) => string): string | undefined {
  for (const name of needed) {
    try {
      closeSync(openSync(new URL(resolve(name)), "r"));
    } catch (error) {
      return messageOf(error);
    }
  }
  return undefined;
}

/** Does nothing if this isn't root. Throws ConfigError if there is no such user, or it is root as well. */
export function becomeUser(name: string, log: Logger, resolve = import.meta.resolve): void {
  if (process.getuid?.() !== 0) return;
  const user = findOsUser(name);
  if (user === undefined || user.uid === 0)
    throw new ConfigError(`runAs: the user "${name}" ${user === undefined ? "does not exist" : "is root"}`);
  process.setegid?.(user.gid);
  process.seteuid?.(user.uid);
  const problem = readable(resolve);
  process.seteuid?.(0);
  process.setegid?.(0);
  if (problem !== undefined) {
    log.warn(
      { user: name, problem },
      "goes on as root: its user can't read its program; install it where others can read it (chmod -R o+rX)",
    );
    return;
  }
  process.setgroups?.([user.gid]);
  process.setgid?.(user.gid);
  process.setuid?.(user.uid);
  if (process.getuid?.() !== user.uid || process.geteuid?.() !== user.uid || canBeRootAgain())
    throw new Error(`could not become the user ${name}`);
  Object.assign(process.env, { HOME: user.home, USER: user.name, LOGNAME: user.name });
}

function canBeRootAgain(): boolean {
  try {
    process.setuid?.(0);
    return true;
  } catch {
    return false;
  }
}
