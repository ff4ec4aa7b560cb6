/** `node regress/run.ts [--results DIR] [tests…]`: pg_regress on a leader that it makes for that. */
import { mkdir } from "node:fs/promises";
import { messageOf } from "@quorate/common";
import { Command } from "commander";
import { regressTests, runPgRegress } from "./lib/pg-regress.ts";

async function main(): Promise<void> {
  const command = new Command("regress")
    .option("--results <directory>", "copy the results there, to become expected/ once they are right")
    .argument("[tests...]", "which", [...regressTests])
    .parse();
  const { results } = command.opts<{ results?: string }>();
  const tests = command.args.length > 0 ? command.args : regressTests;
  if (results !== undefined) await mkdir(results, { recursive: true });
  const { ok, report, diffs } = await runPgRegress(tests, results);
  console.log(report + diffs);
  if (!ok) process.exitCode = 1;
}

await main().catch((error: unknown) => {
  console.error(`regress: ${messageOf(error)}`);
  process.exitCode = 1;
});
