/** Runs Postgres's own test suites against a build, as the unprivileged user. */
import { spawn } from "node:child_process";
import { createWriteStream, existsSync } from "node:fs";
import { readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { asPostgres, makePostgresTempDirectory, postgresUser, run } from "@quorate/common";
import type { PostgresBuild } from "../../build-postgres.ts";
import { pgRegressTotals, proveTotals, type Totals } from "../totals.ts";

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
  /** Added to postgresql.conf of every server that the suite starts. */
  readonly settings?: string;
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
  const file = createWriteStream(log);
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

/** The settings under which the extension is loaded, also in an installation that lacks it. */
export async function loadedSettings(build: PostgresBuild, root: string): Promise<string> {
  const own = path.join(root, "regress/loaded.conf");
  const libraries = (await run(path.join(build.bin, "pg_config"), ["--pkglibdir"])).stdout.trim();
  const share = (await run(path.join(build.bin, "pg_config"), ["--sharedir"])).stdout.trim();
  return [
    `dynamic_library_path = '${libraries}:$libdir'`,
    `extension_control_path = '${share}:$system'`,
    "shared_preload_libraries = 'quorate'",
    existsSync(own) ? await readFile(own, "utf8") : "",
  ].join("\n");
}

async function runRegress(suite: Extract<Suite, { kind: "regress" }>, options: SuiteOptions) {
  const { build } = options;
  const work = await makePostgresTempDirectory("quorate-suite-");
  const input = path.join(build.sourceTree, suite.input);
  const extra: string[] = [];
  if (options.settings !== undefined) {
    const file = path.join(work, "extra.conf");
    await writeFile(file, `${options.settings}\n`, { mode: 0o644 });
    extra.push(`--temp-config=${file}`);
  }
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
      `--temp-instance=${path.join(work, "instance")}`,
      `--schedule=${path.join(input, suite.schedule)}`,
      "--max-concurrent-tests=20",
      ...extra,
    ],
    { LC_ALL: "C", PGTZ: "", PGHOST: "" },
  );
  const totals = pgRegressTotals(output);
  const ok = code === 0 && totals.failed === 0 && totals.passed > 0;
  if (ok) await rm(work, { recursive: true, force: true });
  return { totals, ok, logDirectory: work };
}

/** `make check` works inside the built tree, so that must belong to the unprivileged user. */
async function runMake(suite: Extract<Suite, { kind: "make" }>, options: SuiteOptions): Promise<SuiteResult> {
  const tree = options.build.sourceTree;
  const user = postgresUser();
  if (user !== undefined) await run("chown", ["-R", `${user.uid}:${user.gid}`, tree], { timeoutMs: 120_000 });
  const work = await makePostgresTempDirectory("quorate-suite-");
  const env: Record<string, string> = { LC_ALL: "C", MAKEFLAGS: "", MAKELEVEL: "" };
  if (options.settings !== undefined) {
    const file = path.join(work, "extra.conf");
    await writeFile(file, `${options.settings}\n`, { mode: 0o644 });
    env["TEMP_CONFIG"] = file;
  }
  const args = ["-k", "-C", path.join(tree, suite.directory), "check"];
  const { code, output } = await stream(options, path.join(work, "suite.log"), tree, "make", args, env);
  const regress = pgRegressTotals(output);
  const prove = proveTotals(output);
  const totals = { passed: regress.passed + prove.passed, failed: regress.failed + prove.failed };
  return { totals, ok: code === 0 && totals.failed === 0 && totals.passed > 0, logDirectory: work };
}

export async function runSuite(name: string, options: SuiteOptions): Promise<SuiteResult> {
  const suite = suites[name];
  if (suite === undefined) throw new Error(`no suite ${name}; there are ${Object.keys(suites).join(", ")}`);
  const result = suite.kind === "regress" ? await runRegress(suite, options) : await runMake(suite, options);
  // A suite that broke off before its first failure was counted has failed all the same.
  if (result.ok || result.totals.failed > 0) return result;
  return { ...result, totals: { passed: result.totals.passed, failed: 1 } };
}
