/** `npm run loop -- --rounds N --seed S …`: failover after failover, with everything compared after each. */
import { messageOf } from "@quorate/common";
import { Command, Option } from "commander";
import type { Variant } from "../scripts/lib/postgres/plan.ts";
import { type LoopRule, loopRules, type Round, runLoop } from "./lib/failover-loop.ts";

type Options = {
  readonly rounds: string;
  readonly seed: string;
  readonly nodes: "3" | "5";
  readonly rule: LoopRule;
  readonly variant: Variant;
  readonly powerCut?: boolean;
  readonly rows: string;
  readonly set: readonly string[];
  readonly keep?: boolean;
  readonly json?: boolean;
};

function wholeNumber(text: string, name: string, least: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least)
    throw new Error(`--${name} ${text}: a whole number from ${least} on is needed`);
  return value;
}

function roundText(round: Round, secondsPerRound: number): string {
  const { term, fault, from, to, recruited, droppedBytes, acknowledged, problems } = round;
  const dropped = droppedBytes > 0 ? `, ${droppedBytes} bytes dropped` : "";
  return [
    `${round.round}: ${fault}; ${from} -> ${to}, term ${term} by ${recruited}${dropped}; ` +
      `${acknowledged} rows; ${secondsPerRound.toFixed(1)} s; ${problems.length === 0 ? "clean" : "PROBLEMS"}`,
    ...problems.map((problem) => `    ${problem}`),
  ].join("\n");
}

async function main(): Promise<void> {
  const command = new Command("loop")
    .description("failover after failover on raw servers, with everything compared after each")
    .option("--rounds <n>", "how many", "20")
    .option("--seed <n>", "of the choices; the timing is never the same", String(Date.now() % 100_000))
    .addOption(new Option("--nodes <n>", "size of the cohort").choices(["3", "5"]).default("3"))
    .addOption(new Option("--rule <policy>", "of the cohort").choices([...loopRules]).default("majority"))
    .addOption(
      new Option("--variant <name>", "which build").choices(["release", "assert"]).default("release"),
    )
    .option("--power-cut", "also cut the power of nodes: un-fsynced data is lost (needs root)")
    .option("--rows <n>", "acknowledged rows per round, at least", "100")
    .option(
      "--set <line>",
      "a line for postgresql.conf, may be repeated",
      (line, all: string[]) => [...all, line],
      [],
    )
    .option("--keep", "leave the data directories when something is wrong")
    .option("--json", "print the rounds as JSON lines")
    .parse();
  const options = command.opts<Options>();
  const seed = wholeNumber(options.seed, "seed", 0);
  let lastMs = performance.now();
  console.log(
    `seed ${seed}, ${options.nodes} nodes, ${options.rule}, ${process.env["QUORATE_TEST_BIN"] ?? options.variant}`,
  );
  const { rounds, known } = await runLoop({
    rounds: wholeNumber(options.rounds, "rounds", 1),
    seed,
    nodes: options.nodes === "5" ? 5 : 3,
    rule: options.rule,
    variant: options.variant,
    powerCut: options.powerCut ?? false,
    rowsPerRound: wholeNumber(options.rows, "rows", 1),
    settings: options.set,
    keep: options.keep ?? false,
    onRound: (round) => {
      const nowMs = performance.now();
      console.log(options.json === true ? JSON.stringify(round) : roundText(round, (nowMs - lastMs) / 1000));
      lastMs = nowMs;
    },
  });
  const bad = rounds.filter(({ problems }) => problems.length > 0).length;
  console.log(
    `${rounds.length - bad} of ${rounds.length} rounds clean; ${known.nextId - 1} rows written, ` +
      `${Object.entries(Object.fromEntries(known.counts))
        .map(([name, n]) => `${name} ${n}`)
        .join(", ")}`,
  );
  if (bad > 0) process.exitCode = 1;
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

await main().catch((error: unknown) => {
  console.error(`loop: ${messageOf(error)}`);
  process.exitCode = 1;
});
