/**
 * Builds in the cache:
 *
 *   postgres/<version>-<variant>-<hash>/
 *     src/            the patched, built tree: Postgres's own test suites run in it
 *     install/        its installation, without our extension
 *     ext-<hash>/     a hard-linked copy of it with one state of the extension: what everybody runs
 *     build.log, ext-<hash>.log
 *     complete.json   written last: without it the rest is rubble of an interrupted build
 *
 * A new state of the extension gets a new directory, so that clusters which run from an older one are not disturbed.
 */
import { spawn } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { cp, rename, rm, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";
import { commonErrors, run } from "@quorate/common";
import type { Progress } from "../progress.ts";
import { type BuildPlan, extensionInputs, extensionKey } from "./plan.ts";
import { ensureSource } from "./source.ts";

type Step = { readonly what: string; readonly log: string };

function lastLines(file: string, count: number): string {
  const lines = existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n") : [];
  return lines.slice(-count).join("\n");
}

/** Runs one command of a build; its output goes to the log, the end of the log into the error. */
async function execute(step: Step, cwd: string, command: string, args: readonly string[]): Promise<void> {
  const log = createWriteStream(step.log, { flags: "a" });
  log.write(`\n### ${step.what}\n### ${[command, ...args].join(" ")}\n`);
  const failure = await new Promise<string | undefined>((resolve) => {
    // Everybody must be able to read what root builds; nobody else to change it.
    const child = spawn("sh", ["-c", 'umask 022; exec "$@"', "sh", command, ...args], {
      cwd,
      env: { ...process.env, LC_ALL: "C", MAKEFLAGS: "", MAKELEVEL: "" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    child.on("error", (error) => resolve(error.message));
    child.on("close", (code, signal) => resolve(code === 0 ? undefined : `${signal ?? `exit code ${code}`}`));
  });
  await new Promise((done) => log.end(done));
  if (failure !== undefined) {
    throw commonErrors.error(
      "build_failed",
      `${step.what} failed (${failure}). The end of ${step.log}:\n${lastLines(step.log, 30)}`,
    );
  }
}

export function isComplete(directory: string): boolean {
  return existsSync(path.join(directory, "complete.json"));
}

export async function buildPostgres(plan: BuildPlan, directory: string, progress: Progress): Promise<void> {
  const startedMs = performance.now();
  const source = await ensureSource(plan.release, progress);
  await rm(directory, { recursive: true, force: true });
  const tree = path.join(directory, "src");
  mkdirSync(tree, { recursive: true, mode: 0o755 });
  const log = path.join(directory, "build.log");
  const stage = (what: string, command: string, args: readonly string[], cwd = tree) => {
    progress(what);
    return execute({ what, log }, cwd, command, args);
  };
  const unpack = ["--extract", "--bzip2", "--no-same-owner", "--strip-components=1", "--file", source];
  await stage("unpacking the source", "tar", unpack);
  for (const { name, file } of plan.patches) {
    const args = ["--strip=1", "--forward", "--fuzz=0", "--no-backup-if-mismatch", "--input", file];
    await stage(`applying ${name}`, "patch", args);
  }
  const prefix = path.join(directory, "install");
  await stage("configuring", "./configure", [`--prefix=${prefix}`, ...plan.configure, "--quiet"]);
  const jobs = `-j${availableParallelism()}`;
  await stage("compiling (takes minutes)", "make", [jobs, "--no-print-directory", "-s", "world-bin"]);
  await stage("installing", "make", ["--no-print-directory", "-s", "install-world-bin"]);
  const facts = {
    version: plan.release.version,
    variant: plan.variant,
    patches: plan.patches.map(({ name }) => name),
    configure: plan.configure,
    platform: plan.platform,
    seconds: Math.round((performance.now() - startedMs) / 1000),
  };
  await writeFile(path.join(directory, "complete.json"), `${JSON.stringify(facts, null, 2)}\n`, {
    mode: 0o644,
  });
}

/** Where this state of the clone's extension is, or will be, installed; without an extension the plain installation. */
export function prefixFor(root: string, directory: string): string {
  const inputs = extensionInputs(root);
  return path.join(directory, inputs.length === 0 ? "install" : `ext-${extensionKey(root, inputs)}`);
}

export async function buildExtension(
  root: string,
  directory: string,
  prefix: string,
  progress: Progress,
): Promise<void> {
  const log = `${prefix}.log`;
  const work = `${prefix}.build`;
  const fresh = `${prefix}.new`;
  await Promise.all([log, work, fresh].map((each) => rm(each, { recursive: true, force: true })));
  mkdirSync(work, { recursive: true, mode: 0o755 });
  // A copy is compiled, so that the clone stays clean and several builds don't meet.
  const inputs = extensionInputs(root);
  for (const file of inputs) {
    await cp(path.join(root, file), path.join(work, file), { recursive: true });
  }
  if (path.basename(prefix) !== `ext-${extensionKey(work, inputs)}`) {
    throw commonErrors.error(
      "build_failed",
      "the extension's sources changed while they were copied: run it again",
    );
  }
  const stage = (what: string, command: string, args: readonly string[]) => {
    progress(what);
    return execute({ what, log }, path.join(work, "extension"), command, args);
  };
  await stage("copying the installation", "cp", ["-al", path.join(directory, "install"), fresh]);
  const pgConfig = `PG_CONFIG=${path.join(fresh, "bin/pg_config")}`;
  const jobs = `-j${availableParallelism()}`;
  await stage("compiling the extension", "make", [jobs, "--no-print-directory", pgConfig]);
  await stage("installing the extension", "make", ["--no-print-directory", pgConfig, "install"]);
  await rename(fresh, prefix);
  await rm(work, { recursive: true, force: true });
}

function directoriesInUse(): Set<string> {
  const used = new Set<string>();
  for (const pid of readdirSync("/proc")) {
    try {
      if (/^\d+$/.test(pid)) used.add(readlinkSync(`/proc/${pid}/exe`));
    } catch {
      // it has ended, or belongs to somebody else, who has another cache
    }
  }
  return used;
}

/** True while another process builds there. */
async function isLocked(lock: string): Promise<boolean> {
  if (!existsSync(lock)) return false;
  return (await run("flock", ["--nonblock", lock, "true"], { okCodes: [0, 1] })).code === 1;
}

/** Removes all builds but this one, those that a running program was started from, and those that are being made. */
export async function pruneBuilds(keepDirectory: string, lockDirectory: string): Promise<string[]> {
  const parent = path.dirname(keepDirectory);
  const used = [...directoriesInUse()];
  const removed: string[] = [];
  for (const name of readdirSync(parent)) {
    const directory = path.join(parent, name);
    if (directory === keepDirectory || used.some((program) => program.startsWith(`${directory}/`))) continue;
    if (await isLocked(path.join(lockDirectory, name))) continue;
    await rm(directory, { recursive: true, force: true });
    removed.push(directory);
  }
  return removed;
}
