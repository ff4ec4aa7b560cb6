/** Runs Postgres's own test suites against a build, as the unprivileged user. */
import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import path from "node:path";
import { asPostgres, makePostgresTempDirectory, postgresUser, run } from "@quorate/common";
import type { PostgresBuild } from "../../build-postgres.ts";
import { add, nothing, pgRegressTotals, proveTotals, type Totals } from "../totals.ts";
import type { LoadedServer } from "./loaded.ts";

type Suite =
  | { readonly kind: "regress"; readonly driver: string; readonly input: string; readonly schedule: string }
  | { readonly kind: "make"; readonly directory: string };

export const suites: Readonly<Record<string, Suite>> = {
  core: {
    kind: "regress",
    driver: "src/test/regress/pg_regress",
    input: "src/test/regress",
    schedule: "parallel_schedule",
  },
  isolation: {
    kind: "regress",
    driver: "src/test/isolation/pg_isolation_regress",
    input: "src/test/isolation",
    schedule: "isolation_schedule",
  },
  recovery: { kind: "make", directory: "src/test/recovery" },
  subscription: { kind: "make", directory: "src/test/subscription" },
  pg_basebackup: { kind: "make", directory: "src/bin/pg_basebackup" },
  pg_combinebackup: { kind: "make", directory: "src/bin/pg_combinebackup" },
  pg_rewind: { kind: "make", directory: "src/bin/pg_rewind" },
  contrib: { kind: "make", directory: "contrib" },
};

export type SuiteOptions = {
  readonly build: PostgresBuild;
  /** Run it where the extension is loaded and every primary leads a cohort of one. */
  readonly loaded?: LoadedServer;
  /** Called with the suite's output as it comes. */
  readonly onOutput?: (text: string) => void;
};

export type SuiteResult = { readonly totals: Totals; readonly ok: boolean; readonly logDirectory: string };

async function stream(
  options: SuiteOptions,
  log: string,
  cwd: string,
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ readonly code: number; readonly output: string }> {
  const file = createWriteStream(log, { flags: "a" });
  let output = "";
  const code = await new Promise<number>((resolve, reject) => {
    const spawnOptions = asPostgres({ cwd, env: { ...process.env, ...env } });
    const child = spawn(command, args, { ...spawnOptions, stdio: ["ignore", "pipe", "pipe"] });
    const listen = (chunk: Buffer) => {
      output += chunk.toString("utf8");
      file.write(chunk);
      options.onOutput?.(chunk.toString("utf8"));
    };
    child.stdout.on("data", listen);
    child.stderr.on("data", listen);
    child.on("error", reject);
    child.on("close", (exitCode) => resolve(exitCode ?? 1));
  });
  await new Promise((done) => file.end(done));
  return { code, output };
}

async function runRegress(suite: Extract<Suite, { kind: "regress" }>, options: SuiteOptions) {
  const { build } = options;
  const work = await makePostgresTempDirectory("quorate-suite-");
  const input = path.join(build.sourceTree, suite.input);
  const { loaded } = options;
  const server =
    loaded === undefined
      ? [`--temp-instance=${path.join(work, "instance")}`]
      : [`--host=${loaded.env.PGHOST}`, `--port=${loaded.env.PGPORT}`, `--user=${loaded.env.PGUSER}`];
  const { code, output } = await stream(
    options,
    path.join(work, "suite.log"),
    work,
    path.join(build.sourceTree, suite.driver),
    [
      `--bindir=${build.bin}`,
      `--inputdir=${input}`,
      `--expecteddir=${input}`,
      `--dlpath=${path.join(build.sourceTree, "src/test/regress")}`,
      `--outputdir=${work}`,
      ...server,
      `--schedule=${path.join(input, suite.schedule)}`,
      "--max-concurrent-tests=20",
    ],
    { LC_ALL: "C", PGTZ: "", PGHOST: "" },
  );
  const totals = failedAtLeastOnce(code, pgRegressTotals(output));
  const ok = totals.failed === 0 && totals.passed > 0;
  if (ok) await rm(work, { recursive: true, force: true });
  return { totals, ok, logDirectory: work };
}

/** What differs by design when the extension is loaded may end a script at once, and with it all that come after. */
async function tapScripts(directory: string): Promise<string[]> {
  const names = await readdir(path.join(directory, "t")).catch(() => []);
  return names
    .filter((name) => name.endsWith(".pl"))
    .sort()
    .map((name) => `t/${name}`);
}

/** A script that waits for what never comes where the extension is loaded is ended, and stops its servers then. */
const scriptLimitS = 300;
const lastWordsS = 30;

/** `make check` works inside the built tree, so that must belong to the unprivileged user. */
async function runMake(suite: Extract<Suite, { kind: "make" }>, options: SuiteOptions): Promise<SuiteResult> {
  const tree = options.build.sourceTree;
  const user = postgresUser();
  if (user !== undefined) await run("chown", ["-R", `${user.uid}:${user.gid}`, tree], { timeoutMs: 120_000 });
  const work = await makePostgresTempDirectory("quorate-suite-");
  const { loaded } = options;
  const env = { LC_ALL: "C", MAKEFLAGS: "", MAKELEVEL: "", ...loaded?.env };
  const what = loaded === undefined ? ["check"] : ["installcheck", `bindir=${loaded.bin}`];
  const log = path.join(work, "suite.log");
  const args = ["-k", "-C", path.join(tree, suite.directory), ...what];
  const make = () => stream(options, log, tree, "make", args, env);
  const makeOne = (script: string) => {
    const limit = [`--kill-after=${lastWordsS}`, String(scriptLimitS)];
    return stream(options, log, tree, "timeout", [...limit, "make", ...args, `PROVE_TESTS=${script}`], env);
  };
  const scripts = loaded === undefined ? [] : await tapScripts(path.join(tree, suite.directory));
  const runs = scripts.length === 0 ? [await make()] : [];
  for (const script of scripts) runs.push(await makeOne(script));
  const totals = runs
    .map(({ code, output }) => failedAtLeastOnce(code, madeTotals(output)))
    .reduce(add, nothing);
  return { totals, ok: totals.failed === 0 && totals.passed > 0, logDirectory: work };
}

/** `make check` and `make installcheck` run the one or the other driver. */
function madeTotals(output: string): Totals {
  return add(pgRegressTotals(output), proveTotals(output));
}

/** What broke off before its first failure was counted has failed all the same. */
function failedAtLeastOnce(code: number, totals: Totals): Totals {
  return code === 0 || totals.failed > 0 ? totals : { ...totals, failed: 1 };
}

export async function runSuite(name: string, options: SuiteOptions): Promise<SuiteResult> {
  const suite = suites[name];
  if (suite === undefined) throw new Error(`no suite ${name}; there are ${Object.keys(suites).join(", ")}`);
  return suite.kind === "regress" ? runRegress(suite, options) : runMake(suite, options);
}
