/** PgBouncer for the comparison: the one on the PATH, else Debian's package unpacked into the cache. */
import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { run } from "@quorate/common";
import { cacheRoot } from "../scripts/lib/cache.ts";

export type Program = { readonly file: string; readonly env: Record<string, string> };

export async function findPgbouncer(): Promise<Program> {
  for (const directory of (process.env["PATH"] ?? "").split(":")) {
    const file = path.join(directory, "pgbouncer");
    if (existsSync(file)) return { file, env: {} };
  }
  const directory = path.join(cacheRoot(), "pgbouncer");
  const file = path.join(directory, "usr/sbin/pgbouncer");
  if (!existsSync(file)) {
    await mkdir(directory, { recursive: true });
    await run("apt-get", ["download", "pgbouncer", "libc-ares2", "libevent-2.1-7"], {
      cwd: directory,
      timeoutMs: 120_000,
    });
    for (const name of await readdir(directory)) {
      if (name.endsWith(".deb")) await run("dpkg", ["-x", name, "."], { cwd: directory });
    }
  }
  const machine = process.arch === "arm64" ? "aarch64" : "x86_64";
  return { file, env: { LD_LIBRARY_PATH: path.join(directory, `usr/lib/${machine}-linux-gnu`) } };
}
