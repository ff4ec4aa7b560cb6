/**
 * Suites that others wrote, unchanged, on a direct connection and through the gateway: `npm run judge:gateway`.
 * Fails if a test ends differently for a reason that docs/gateway-differences.md doesn't give.
 */
import { messageOf } from "@quorate/common";
import { Command, Option } from "commander";
import type { Suite } from "./judge/context.ts";
import { libpq } from "./judge/libpq.ts";
import { pgbench } from "./judge/pgbench.ts";
import { postgresjs } from "./judge/postgresjs.ts";
import { psycopg } from "./judge/psycopg.ts";
import { psycopg3 } from "./judge/psycopg3.ts";
import { core, isolation } from "./judge/regress.ts";
import { compare, passed, unexplained, type Verdict } from "./judge/verdict.ts";

const suites: Readonly<Record<string, Suite>> = {
  core,
  libpq,
  pgbench,
  psycopg,
  psycopg3,
  postgresjs,
  isolation,
};

type Said = { readonly name: string } & (
  | { readonly kind: "judged"; readonly verdict: Verdict; readonly seconds: number }
  | { readonly kind: "not-run"; readonly reason: string }
);

const command = new Command("judge:gateway")
  .description("other people's test suites, directly and through the gateway")
  .argument("[tests...]", "only these tests of the suite (of one suite)")
  .option("--suite <list>", `which suites: ${Object.keys(suites).join(",")} or all`, "core")
  .addOption(new Option("--transport <name>", "the gateway's").choices(["native", "net"]).default("native"))
  .option("--json", "print the verdicts as JSON")
  .option("--details", "print what differing tests said, also where the difference is known")
  .addHelpText("after", "\nExample: npm run judge:gateway -- --suite libpq,pgbench")
  .parse();
const given = command.opts<{ suite: string; transport: string; json?: boolean; details?: boolean }>();

async function judge(name: string, suite: Suite): Promise<Said> {
  const startedMs = Date.now();
  const reason = await suite.prepare?.();
  if (reason !== undefined) return { name, kind: "not-run", reason };
  const direct = await suite.run("direct", command.args);
  const through = await suite.run("through", command.args);
  const verdict = compare(name, direct, through, suite.known);
  return { name, kind: "judged", verdict, seconds: Math.round((Date.now() - startedMs) / 1000) };
}

function print(said: Said): void {
  const title = suites[said.name]?.title ?? said.name;
  if (said.kind === "not-run") {
    console.log(`${title}: not run: ${said.reason}`);
    return;
  }
  const { direct, through, differences } = said.verdict;
  console.log(`${title}, ${said.seconds} s`);
  console.log(
    `  directly             ${direct.ok} passed, ${direct.failed} failed, ${direct.skipped} skipped`,
  );
  console.log(
    `  through the gateway  ${through.ok} passed, ${through.failed} failed, ${through.skipped} skipped`,
  );
  for (const { test, direct: one, through: other, reason, detail } of differences) {
    console.log(
      `  ${reason === undefined ? "DIFFERS" : "differs"}  ${test}: ${one} directly, ${other} through it`,
    );
    if (reason !== undefined) console.log(`           ${reason}`);
    if (reason === undefined || given.details === true) console.log(detail.replaceAll(/^/gm, "           "));
  }
  for (const each of said.verdict.failedDirectly) console.log(`  fails directly  ${each.slice(0, 300)}`);
  console.log(`  ${differences.length} different, ${unexplained(said.verdict).length} of them unexplained`);
}

async function main(): Promise<number> {
  process.env["GATEWAY_TRANSPORT"] = given.transport;
  const names = given.suite === "all" ? Object.keys(suites) : given.suite.split(",");
  for (const name of names) {
    if (suites[name] === undefined)
      throw new Error(`no suite "${name}"; there are ${Object.keys(suites).join(", ")}`);
  }
  const all: Said[] = [];
  for (const name of names) {
    const said = await judge(name, suites[name] as Suite);
    all.push(said);
    if (given.json !== true) print(said);
  }
  if (given.json === true) console.log(JSON.stringify(all, undefined, 2));
  const judged = all.filter((said) => said.kind === "judged");
  // A suite that was asked for by its name must have run.
  const missing = given.suite === "all" ? judged.length === 0 : judged.length < names.length;
  return missing || judged.some(({ verdict }) => !passed(verdict)) ? 1 : 0;
}

process.exitCode = await main().catch((error: unknown) => {
  console.error(`judge:gateway: ${messageOf(error)}`);
  return 1;
});
