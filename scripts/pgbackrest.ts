/** Finds a pgBackRest that knows PostgreSQL 18: the system's own, or one in a private root in the cache. */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { commonErrors, messageOf, run } from "@quorate/common";
import { Command } from "commander";
import { cacheRoot, makeCacheDirectory, withLock } from "./lib/cache.ts";
import { isAtLeast, minimumVersion, parseVersion } from "./lib/pgbackrest.ts";
import { makeWrapper, newerDebs, unpack } from "./lib/private-root.ts";
import { type Progress, terminalProgress } from "./lib/progress.ts";

export type Pgbackrest = {
  /** To be started as it is, also from archive_command. */
  readonly command: string;
  readonly version: string;
  readonly origin: "system" | "private";
};

export type EnsurePgbackrestOptions = {
  /** Don't use the system's. */
  readonly privateOnly?: boolean;
  /** Only called when something has to be fetched. */
  readonly progress?: Progress;
};

const suites = ["trixie-backports", "sid"];

async function versionOf(command: string): Promise<string | undefined> {
  try {
    return parseVersion((await run(command, ["version"], { timeoutMs: 20_000 })).stdout);
  } catch {
    return undefined;
  }
}

async function findSystem(): Promise<Pgbackrest | undefined> {
  for (const directory of (process.env["PATH"] ?? "").split(":")) {
    const command = path.resolve(directory, "pgbackrest");
    if (directory === "" || !existsSync(command)) continue;
    const version = await versionOf(command);
    if (version !== undefined && isAtLeast(version, minimumVersion))
      return { command, version, origin: "system" };
  }
  return undefined;
}

async function debsFromFolder(folder: string): Promise<string[]> {
  const directory = path.join(folder, "pgbackrest-debs");
  if (!existsSync(directory)) throw new Error(`no folder ${directory}`);
  const debs = (await readdir(directory)).filter((name) => name.endsWith(".deb"));
  if (!debs.some((name) => name.startsWith("pgbackrest_")))
    throw new Error(`no pgbackrest_*.deb in ${directory}`);
  return debs.map((name) => path.join(directory, name));
}

async function install(progress: Progress): Promise<void> {
  const cache = makeCacheDirectory("pgbackrest");
  const folder = process.env["QUORATE_SOURCE_DIR"];
  const origins = [
    ...(folder === undefined || folder === ""
      ? []
      : [{ name: `QUORATE_SOURCE_DIR=${folder}`, debs: () => debsFromFolder(folder) }]),
    {
      name: "newer suites of the distribution",
      debs: (directory: string) => newerDebs("pgbackrest", suites, directory),
    },
  ];
  const refusals: string[] = [];
  for (const origin of origins) {
    const downloads = await mkdtemp(path.join(tmpdir(), "quorate-debs-"));
    const fresh = path.join(cache, "root.new");
    const root = path.join(cache, "root");
    try {
      progress(`looking for packages in ${origin.name}`);
      const debs = await origin.debs(downloads);
      progress(`unpacking ${debs.length} packages`);
      await rm(fresh, { recursive: true, force: true });
      await mkdir(fresh, { mode: 0o755 });
      await unpack(debs, fresh);
      await rm(root, { recursive: true, force: true });
      await rename(fresh, root);
      const command = path.join(cache, "bin/pgbackrest");
      await makeWrapper(root, command, "usr/bin/pgbackrest");
      const { stdout } = await run(command, ["version"], { timeoutMs: 20_000 });
      const version = parseVersion(stdout);
      if (version === undefined || !isAtLeast(version, minimumVersion)) {
        throw new Error(`${stdout.trim()} is too old: ${minimumVersion} or newer is needed`);
      }
      const facts: Pgbackrest = { command, version, origin: "private" };
      await writeFile(path.join(cache, "complete.json"), `${JSON.stringify(facts, null, 2)}\n`, {
        mode: 0o644,
      });
      return;
    } catch (error) {
      refusals.push(`${origin.name}: ${messageOf(error)}`);
    } finally {
      await rm(downloads, { recursive: true, force: true });
    }
  }
  throw commonErrors.error(
    "no_pgbackrest",
    [
      `No pgBackRest ${minimumVersion} or newer is to be had. Besides the system's own, looked in:`,
      ...refusals.map((refusal) => `  - ${refusal}`),
      "Install one, or put its .deb with those of its libraries into a folder pgbackrest-debs and name the folder",
      "above that: QUORATE_SOURCE_DIR=/that/folder",
    ].join("\n"),
  );
}

/** Finds pgBackRest or fetches it into the cache. Callers at the same time wait. */
export async function ensurePgbackrest(options: EnsurePgbackrestOptions = {}): Promise<Pgbackrest> {
  const system = options.privateOnly === true ? undefined : await findSystem();
  if (system !== undefined) return system;
  const marker = path.join(cacheRoot(), "pgbackrest/complete.json");
  const cached = (): Pgbackrest | undefined =>
    existsSync(marker) ? JSON.parse(readFileSync(marker, "utf8")) : undefined;
  const found = cached();
  if (found !== undefined) return found;
  const progress = options.progress ?? terminalProgress("pgBackRest");
  await withLock(
    path.join(cacheRoot(), "locks/pgbackrest"),
    async () => {
      if (cached() === undefined) await install(progress);
    },
    () => progress("waiting for another process that fetches it"),
  );
  const fresh = cached();
  if (fresh === undefined) throw commonErrors.error("no_pgbackrest", "pgBackRest vanished from the cache");
  return fresh;
}

async function main(): Promise<void> {
  const command = new Command("pgbackrest")
    .description("find a pgBackRest that knows PostgreSQL 18, or fetch it into the cache; print its path")
    .option("--private", "don't use the system's own")
    .option("--json", "print path, version and origin as JSON")
    .parse();
  const options = command.opts<{ private?: boolean; json?: boolean }>();
  const found = await ensurePgbackrest({ privateOnly: options.private === true });
  console.log(options.json === true ? JSON.stringify(found, null, 2) : found.command);
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(`pgbackrest: ${messageOf(error)}`);
    process.exitCode = 1;
  });
}
