/** Patched PostgreSQL with the extension: built once into the cache, found there in no time afterwards. */
import { existsSync } from "node:fs";
import path from "node:path";
import { messageOf } from "@quorate/common";
import { Command, Option } from "commander";
import { cacheRoot, makeCacheDirectory, withLock } from "./lib/cache.ts";
import { buildExtension, buildPostgres, isComplete, prefixFor, pruneBuilds } from "./lib/postgres/build.ts";
import { planBuild, readPatches, type Variant } from "./lib/postgres/plan.ts";
import { defaultRelease } from "./lib/postgres/release.ts";
import { type Progress, terminalProgress } from "./lib/progress.ts";
import { repoRoot } from "./lib/repo.ts";

export type PostgresBuild = {
  /** The installation, with the extension once there is one. */
  readonly prefix: string;
  readonly bin: string;
  /** The same Postgres without the extension. */
  readonly plainPrefix: string;
  /** The patched, built source tree. */
  readonly sourceTree: string;
  readonly version: string;
};

export type Flavour = "quorate" | "patched" | "stock";

export type EnsureOptions = {
  readonly variant?: Variant;
  /**
   * "quorate" (default): patched, with the extension; "patched": without the extension; "stock": as upstream made it,
   * for controls and comparisons.
   */
  readonly flavour?: Flavour;
  /** The clone whose patches and extension are built; default: this one. */
  readonly root?: string;
  /** Only called when something has to be built. */
  readonly progress?: Progress;
};

/** Finds the build that fits the clone's patches and extension, or makes it. Callers at the same time wait. */
export async function ensurePostgres(options: EnsureOptions = {}): Promise<PostgresBuild> {
  const root = options.root ?? repoRoot;
  const flavour = options.flavour ?? "quorate";
  const patches = flavour === "stock" ? [] : readPatches(root, defaultRelease.major);
  const plan = planBuild(patches, defaultRelease, options.variant ?? "release");
  const directory = path.join(cacheRoot(), "postgres", plan.key);
  const plainPrefix = path.join(directory, "install");
  const prefix = flavour === "quorate" ? prefixFor(root, directory) : plainPrefix;
  const build: PostgresBuild = {
    prefix,
    bin: path.join(prefix, "bin"),
    plainPrefix,
    sourceTree: path.join(directory, "src"),
    version: plan.release.version,
  };
  const isReady = () => isComplete(directory) && existsSync(build.bin);
  if (isReady()) return build;

  makeCacheDirectory("postgres");
  const progress = options.progress ?? terminalProgress(`PostgreSQL ${plan.release.version}`);
  await withLock(
    path.join(cacheRoot(), "locks", plan.key),
    async () => {
      if (!isComplete(directory)) await buildPostgres(plan, directory, progress);
      if (!existsSync(build.bin)) await buildExtension(root, directory, prefix, progress);
    },
    () => progress("waiting for another process that builds it"),
  );
  return build;
}

async function main(): Promise<void> {
  const variant = new Option("--variant <name>", "release, or assert: with assertions and injection points");
  const command = new Command("build-postgres")
    .description("build patched PostgreSQL and the extension into the cache, and print where it is")
    .addOption(variant.choices(["release", "assert"]).default("release"))
    .addOption(
      new Option("--flavour <name>", "what").choices(["quorate", "patched", "stock"]).default("quorate"),
    )
    .option("--prune", "then remove the other builds from the cache, except those that programs run from")
    .option("--json", "print all paths as JSON")
    .parse();
  const options = command.opts<{ variant: Variant; flavour: Flavour; json?: boolean; prune?: boolean }>();
  const build = await ensurePostgres({ variant: options.variant, flavour: options.flavour });
  if (options.prune === true) {
    const locks = path.join(cacheRoot(), "locks");
    const removed = await pruneBuilds(path.dirname(build.sourceTree), locks);
    for (const directory of removed) console.error(`removed ${directory}`);
  }
  console.log(options.json === true ? JSON.stringify(build, null, 2) : build.prefix);
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(`build-postgres: ${messageOf(error)}`);
    process.exitCode = 1;
  });
}
