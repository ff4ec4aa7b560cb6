/**
 * What takes long to get or to build is kept here, shared by all clones of one user. Everything in it must be readable
 * by the user that Postgres runs as, which rules out root's home directory.
 */
import { spawn } from "node:child_process";
import { mkdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { commonErrors, messageOf } from "@quorate/common";

export function cacheRoot(): string {
  const chosen = process.env["QUORATE_CACHE_DIR"];
  if (chosen !== undefined && chosen !== "") return path.resolve(chosen);
  if (process.getuid?.() === 0) return "/var/cache/quorate";
  const base = process.env["XDG_CACHE_HOME"] ?? path.join(homedir(), ".cache");
  return path.join(base, "quorate");
}

/** Makes a directory of the cache, and says so if the user that Postgres runs as can't reach it. */
export function makeCacheDirectory(...parts: readonly string[]): string {
  const directory = path.join(cacheRoot(), ...parts);
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  if (process.getuid?.() === 0) {
    for (let at = directory; at !== path.dirname(at); at = path.dirname(at)) {
      if ((statSync(at).mode & 0o001) === 0) {
        throw commonErrors.error(
          "cache_closed",
          `the cache ${cacheRoot()} must be readable by every user, but ${at} is closed to others: ` +
            "set QUORATE_CACHE_DIR to another directory, or open this one (chmod o+x)",
        );
      }
    }
  }
  return directory;
}

/** Holds a lock of the kernel's (flock) while `work` runs: it ends with us, whatever happens to us. */
export async function withLock<T>(
  file: string,
  work: () => Promise<T>,
  onWait: () => void = () => undefined,
): Promise<T> {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
  // flock keeps the lock until cat reads the end of our pipe.
  const holder = spawn("flock", [file, "sh", "-c", "echo locked; exec cat >/dev/null"], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true, // a Ctrl-C is for us: we let go when we end
  });
  const waiting = setTimeout(onWait, 1000);
  try {
    await new Promise<void>((resolve, reject) => {
      holder.stdout.once("data", () => resolve());
      holder.once("error", (error) => reject(new Error(`could not lock ${file}: ${messageOf(error)}`)));
      holder.once("exit", (code) => reject(new Error(`could not lock ${file}: flock ended with ${code}`)));
    });
    clearTimeout(waiting);
    return await work();
  } finally {
    clearTimeout(waiting);
    holder.stdin.end();
  }
}
