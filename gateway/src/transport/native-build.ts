/** Builds the addon with the system's C compiler; without one the gateway runs on Node's own sockets. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ownSources = fileURLToPath(new URL("../../native/", import.meta.url));

export type NativeBuild = { readonly file: string } | { readonly reason: string };

/** Finds the built addon that belongs to these sources, or makes it. */
export function buildNative(sources = ownSources): NativeBuild {
  if (process.platform !== "linux") return { reason: `it needs epoll, and this is ${process.platform}` };
  try {
    const hash = createHash("sha256");
    const names = readdirSync(sources).filter((name) => /\.[ch]$/.test(name));
    for (const name of names.sort()) hash.update(readFileSync(path.join(sources, name)));
    const directory = path.join(sources, "build");
    const file = path.join(directory, `batch-${process.arch}-${hash.digest("hex").slice(0, 12)}.node`);
    if (existsSync(file)) return { file };
    mkdirSync(directory, { recursive: true });
    const made = `${file}.${process.pid}`;
    const flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden"];
    const inputs = names.filter((name) => name.endsWith(".c")).map((name) => path.join(sources, name));
    execFileSync(process.env["CC"] ?? "cc", [...flags, "-o", made, ...inputs], {
      stdio: ["ignore", "ignore", "pipe"],
      timeout: 60_000,
    });
    renameSync(made, file);
    return { file };
  } catch (error) {
    return { reason: error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error) };
  }
}
