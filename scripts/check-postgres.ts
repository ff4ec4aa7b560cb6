/** Runs Postgres's own test suites on our patched build: with the extension not loaded it must behave as stock. */
import { messageOf } from "@quorate/common";
import { Argument, Command, Option } from "commander";
import { ensurePostgres } from "./build-postgres.ts";
import { startLoadedServer } from "./lib/postgres/loaded.ts";
import type { Variant } from "./lib/postgres/plan.ts";
import { runSuite, suites } from "./lib/postgres/suites.ts";
import { add, nothing } from "./lib/totals.ts";

async function main(): Promise<void> {
  const names = Object.keys(suites);
  const command = new Command("check-postgres")
    .description("run PostgreSQL's own test suites on the patched build")
    .addArgument(new Argument("[suites...]", "which (default: core)").choices([...names, "all"]))
    .addOption(
      new Option("--variant <name>", "which build").choices(["release", "assert"]).default("release"),
    )
    .option("--loaded", "with the extension loaded, every primary leading a cohort of one")
    .option("--quiet", "print only the results")
    .parse();
  const options = command.opts<{ variant: Variant; loaded?: boolean; quiet?: boolean }>();
  const wanted = command.args.length === 0 ? ["core"] : command.args.includes("all") ? names : command.args;
  const build = await ensurePostgres({
    variant: options.variant,
    flavour: options.loaded === true ? "quorate" : "patched",
  });
  const onOutput = options.quiet === true ? {} : { onOutput: (text: string) => process.stdout.write(text) };
  let totals = nothing;
  for (const name of wanted) {
    const loaded = options.loaded === true ? await startLoadedServer(build) : undefined;
    try {
      const result = await runSuite(name, { build, ...(loaded && { loaded }), ...onOutput });
      totals = add(totals, result.totals);
      const where = result.ok ? "" : `; see ${result.logDirectory}`;
      console.log(`${name}: ${result.totals.passed} passed, ${result.totals.failed} failed${where}`);
    } finally {
      await loaded?.dispose();
    }
  }
  console.log(`${totals.passed} passed, ${totals.failed} failed`);
  if (totals.failed > 0 || totals.passed === 0) process.exitCode = 1;
}

await main().catch((error: unknown) => {
  console.error(`check-postgres: ${messageOf(error)}`);
  process.exitCode = 1;
});
