/**
 * `npm test`: every check in turn, from fast to slow. A failed one doesn't keep the rest from running.
 * The last line is `N passed, N failed`.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { messageOf } from "@quorate/common";
import { Command } from "commander";
import { ensurePostgres } from "../build-postgres.ts";
import { runSuite } from "./postgres/suites.ts";
import { repoRoot } from "./repo.ts";
import { tapDigest } from "./tap-digest.ts";
import { add, nodeTapTotals, nothing, plainTotals, type Totals } from "./totals.ts";

type Stage = {
  readonly name: string;
  readonly what: string;
  readonly run: () => Promise<Totals>;
};

type Outcome = { readonly code: number; readonly output: string };

/** Runs a program in the clone; shows and returns its output. */
function execute(
  command: string,
  args: readonly string[],
  show: (text: string) => void = (text) => process.stdout.write(text),
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: repoRoot, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    const listen = (chunk: Buffer) => {
      output += chunk.toString("utf8");
      show(chunk.toString("utf8"));
    };
    child.stdout.on("data", listen);
    child.stderr.on("data", listen);
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? 1, output }));
  });
}

/** A program that counts nothing is one test. */
async function check(command: string, args: readonly string[]): Promise<Totals> {
  const { code } = await execute(command, args);
  return code === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
}

/** What the runner counted; if it ended badly or counted nothing, that is a failure whatever it says. */
function judged(outcome: Outcome, totals: Totals | undefined): Totals {
  if (totals === undefined) return { passed: 0, failed: 1 };
  const brokeOff = outcome.code !== 0 && totals.failed === 0;
  return { passed: totals.passed, failed: totals.failed + (brokeOff || totals.passed === 0 ? 1 : 0) };
}

/**
 * tap comes with a plugin for TypeScript that .taprc takes out, because Node runs our sources as they are. A fresh
 * installation has it built in and must be built anew; otherwise every test file fails to load.
 */
async function buildTapWithoutTypeScript(): Promise<number> {
  const built = path.join(repoRoot, "node_modules/@tapjs/test/test-built/dist/esm/index.js");
  if (existsSync(built) && !readFileSync(built, "utf8").includes("@tapjs/typescript")) return 0;
  const outcome = await execute("tap", ["build"]);
  return outcome.code;
}

async function tap(args: readonly string[]): Promise<Totals> {
  if ((await buildTapWithoutTypeScript()) !== 0) return { passed: 0, failed: 1 };
  const digest = tapDigest((line) => console.log(line));
  const outcome = await execute("tap", ["run", "--reporter=tap", ...args], (text) => digest.write(text));
  digest.end();
  mkdirSync(path.join(repoRoot, "build"), { recursive: true });
  writeFileSync(path.join(repoRoot, "build/test-results.tap"), outcome.output);
  return judged(outcome, nodeTapTotals(outcome.output));
}

async function unitTestsInC(): Promise<Totals> {
  const outcome = await execute("make", ["--no-print-directory", "-C", "extension", "unit"]);
  return judged(outcome, plainTotals(outcome.output) ?? { passed: 1, failed: 0 });
}

async function coreSuite(): Promise<Totals> {
  const build = await ensurePostgres({ flavour: "patched" });
  const result = await runSuite("core", { build });
  if (!result.ok) console.log(`see ${result.logDirectory}`);
  return result.totals;
}

function stages(tapArgs: readonly string[]): Stage[] {
  const list: Stage[] = [
    { name: "types", what: "type check", run: () => check("tsc", ["-p", "tsconfig.json"]) },
    {
      name: "lint",
      what: "lint and format",
      run: () => check("biome", ["check", "--error-on-warnings", "."]),
    },
  ];
  const makefile = path.join(repoRoot, "extension/Makefile");
  if (existsSync(makefile) && /^unit\b.*:/m.test(readFileSync(makefile, "utf8"))) {
    list.push({ name: "c", what: "unit tests in C", run: unitTestsInC });
  }
  list.push(
    { name: "postgres", what: "PostgreSQL's own core regression tests", run: coreSuite },
    { name: "tap", what: "unit, scenario and cluster tests", run: () => tap(tapArgs) },
  );
  return list;
}

export async function runTests(argv: readonly string[]): Promise<number> {
  const command = new Command("npm test --")
    .description("run all tests, or only some stages, or only some test files")
    .option("--only <stages>", "comma-separated: types, lint, c, postgres, tap")
    .argument("[files...]", "test files for the stage tap")
    .exitOverride()
    .parse(argv, { from: "user" });
  const { only } = command.opts<{ only?: string }>();
  const all = stages(command.args);
  const names = all.map(({ name }) => name);
  const wanted = only?.split(",") ?? (command.args.length > 0 ? ["tap"] : names);
  const unknown = wanted.filter((name) => !names.includes(name));
  if (unknown.length > 0) throw new Error(`no stage ${unknown.join(", ")}; there are ${names.join(", ")}`);

  await ensurePostgres();
  let totals = nothing;
  const summary: string[] = [];
  for (const stage of all.filter(({ name }) => wanted.includes(name))) {
    console.log(`\n=== ${stage.what}`);
    const startMs = performance.now();
    const result = await stage.run().catch((error: unknown): Totals => {
      console.error(messageOf(error));
      return { passed: 0, failed: 1 };
    });
    const seconds = Math.round((performance.now() - startMs) / 1000);
    summary.push(`${stage.what}: ${result.passed} passed, ${result.failed} failed (${seconds} s)`);
    totals = add(totals, result);
  }
  console.log(`\n${summary.join("\n")}\n${totals.passed} passed, ${totals.failed} failed`);
  return totals.failed === 0 && totals.passed > 0 ? 0 : 1;
}
