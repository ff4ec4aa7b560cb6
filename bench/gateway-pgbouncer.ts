/**
 * PgBouncer for the comparison: the one on the PATH if it can pass on prepared statements, else a newer one from the
 * distribution in a root of its own in the cache.
 */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { run } from "@quorate/common";
import { makeCacheDirectory } from "../scripts/lib/cache.ts";
import { makeWrapper, newerDebs, unpack } from "../scripts/lib/private-root.ts";

const suites = ["trixie"];

export async function findPgbouncer(): Promise<string> {
  for (const directory of (process.env["PATH"] ?? "").split(":")) {
    const file = path.join(directory, "pgbouncer");
    if (existsSync(file) && keepsPrepared(await pgbouncerVersion(file))) return file;
  }
  const cache = makeCacheDirectory("pgbouncer");
  const script = path.join(cache, "bin/pgbouncer");
  if (existsSync(script)) return script;
  const downloads = await mkdtemp(path.join(tmpdir(), "quorate-debs-"));
  const [fresh, root] = [path.join(cache, "root.new"), path.join(cache, "root")];
  try {
    const debs = await newerDebs("pgbouncer", suites, downloads);
    await rm(fresh, { recursive: true, force: true });
    await mkdir(fresh, { mode: 0o755 });
    await unpack(debs, fresh);
    await rm(root, { recursive: true, force: true });
    await rename(fresh, root);
    await makeWrapper(root, script, "usr/sbin/pgbouncer");
  } finally {
    await rm(downloads, { recursive: true, force: true });
  }
  return script;
}

/** As it says itself: `1.24`. */
export async function pgbouncerVersion(file: string): Promise<string> {
  const { stdout } = await run(file, ["--version"]);
  return /PgBouncer (\d+\.\d+)/.exec(stdout)?.[1] ?? "0.0";
}

/** 1.21 and later. */
export function keepsPrepared(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > 1 || minor >= 21;
}
