/**
 * npm run torture: real clusters in network namespaces, random faults, checkers. Needs root.
 */
import { messageOf } from "@quorate/common";
import { Command } from "commander";
import { whyNoLab } from "../../tests/lib/netlab.ts";
import { allFaults } from "../src/faults.ts";
import { isClean, rowsOf, summaryOf, tableOf } from "../src/report.ts";
import { torture } from "../src/run.ts";

interface Options {
  readonly seed: number;
  readonly faults: number;
  readonly nodes: number;
  readonly only?: string;
  readonly except?: string;
  readonly policy: string;
  readonly json: boolean;
  readonly stories: boolean;
  readonly damping: boolean;
  readonly list: boolean;
}

const exitNotPossible = 3;

async function main(options: Options): Promise<number> {
  if (options.list) {
    for (const { name } of allFaults) console.log(name);
    return 0;
  }
  const { only, except } = options;
  const faults = allFaults.filter(
    ({ name }) =>
      (only === undefined || new RegExp(only).test(name)) &&
      (except === undefined || !new RegExp(except).test(name)),
  );
  if (faults.length === 0) {
    console.error(`torture: no fault is called "${options.only}": see --list`);
    return 2;
  }
  const why = await whyNoLab();
  if (why !== undefined) {
    console.error(`torture: not run: ${why}`);
    return exitNotPossible;
  }
  const cleanups: (() => Promise<void> | void)[] = [];
  const clean = async (): Promise<void> => {
    for (const each of cleanups.splice(0)) await each();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.once(signal, () => void clean().finally(() => process.exit(130)));
  const say = options.json ? () => undefined : console.log;
  say(`seed ${options.seed}, ${options.nodes} nodes, ${options.faults} faults`);
  try {
    const result = await torture(
      { teardown: (each) => cleanups.unshift(each) },
      { ...options, count: options.faults, faults, say },
    );
    if (options.json)
      console.log(JSON.stringify({ seed: options.seed, ...result, rows: rowsOf(result.strikes) }));
    else console.log(`\n${tableOf(result.strikes)}\n\n${summaryOf(result)}`);
    return isClean(result) ? 0 : 1;
  } finally {
    await clean();
  }
}

const command = new Command("torture")
  .description("random faults on real clusters in network namespaces")
  .option("--seed <number>", "the same seed: the same faults", Number, Math.floor(Math.random() * 1e6))
  .option("--faults <count>", "how many", Number, 50)
  .option("--nodes <count>", "size of the cluster", Number, 3)
  .option("--policy <policy>", "as of quorate up", "majority")
  .option("--only <text>", "only faults whose name matches this pattern")
  .option("--except <text>", "no faults whose name matches this pattern")
  .option("--damping", "with the damping of leader changes (a flapping link), which is off here", false)
  .option("--stories", "what all components said when a gap was longer than its aim", false)
  .option("--json", "one line for programs", false)
  .option("--list", "print the faults", false)
  .parse();

process.exitCode = await main(command.opts<Options>()).catch((error: unknown) => {
  console.error(`torture: ${messageOf(error)}`);
  return 1;
});
process.exit();
