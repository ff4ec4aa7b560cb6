/**
 * npm run torture: real clusters in network namespaces, random faults, checkers. Needs root.
 */
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { messageOf } from "@quorate/common";
import { Command } from "commander";
import { whyNoLab } from "../../tests/lib/netlab.ts";
import { allFaults } from "../src/faults.ts";
import { isClean, rowsOf, summaryOf, tableOf, withTable } from "../src/report.ts";
import { type Result, type TortureOptions, torture } from "../src/run.ts";

interface Options {
  readonly seed: number;
  readonly faults: number;
  /** Sizes of clusters, used in turn. */
  readonly nodes: readonly number[];
  /** How many clusters, each with the next seed. */
  readonly clusters: number;
  /** Where each cluster's result goes as soon as it is known, a line of JSON each. */
  readonly out?: string;
  readonly only?: string;
  readonly except?: string;
  readonly policy: string;
  readonly json: boolean;
  readonly stories: boolean;
  readonly damping: boolean;
  readonly certificates: boolean;
  readonly list: boolean;
  /** What --out of earlier runs has written; nothing is run then. */
  readonly table?: readonly string[];
  readonly page?: string;
}

const exitNotPossible = 3;

async function main(options: Options): Promise<number> {
  if (options.list) {
    for (const { name } of allFaults) console.log(name);
    return 0;
  }
  if (options.table !== undefined) return tell(resultsIn(options.table), options.page);
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
  const say = options.json ? () => undefined : console.log;
  const results: Result[] = [];
  for (let cluster = 0; cluster < options.clusters; cluster++) {
    const seed = options.seed + cluster;
    const nodes = options.nodes[cluster % options.nodes.length] ?? 3;
    say(
      `seed ${seed}, ${nodes} nodes, ${options.faults} faults, load of the machine ${loadavg()[0]?.toFixed(1)}`,
    );
    const result = await oneCluster({ ...options, seed, nodes, count: options.faults, faults, say });
    results.push(result);
    const line = JSON.stringify({ seed, nodes, ...result, rows: rowsOf(result.strikes) });
    if (options.out !== undefined) appendFileSync(options.out, `${line}\n`);
    if (options.json) console.log(line);
    else say(`seed ${seed}: ${summaryOf([result])}`);
    // Whatever was found is to be looked at first.
    if (!isClean(result)) break;
  }
  say(`\n${tableOf(results)}\n\n${summaryOf(results)}`);
  return results.every(isClean) ? 0 : 1;
}

function resultsIn(files: readonly string[]): Result[] {
  const lines = files.flatMap((file) => readFileSync(file, "utf8").split("\n"));
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Result);
}

function tell(results: readonly Result[], page: string | undefined): number {
  if (page !== undefined) writeFileSync(page, withTable(readFileSync(page, "utf8"), tableOf(results)));
  console.log(`${tableOf(results)}\n\n${summaryOf(results)}`);
  return results.every(isClean) ? 0 : 1;
}

/** Everything of it is gone afterwards, however it ends. */
async function oneCluster(options: TortureOptions): Promise<Result> {
  const cleanups: (() => Promise<void> | void)[] = [];
  const clean = async (): Promise<void> => {
    for (const each of cleanups.splice(0)) await each();
  };
  const broken = (): void => void clean().finally(() => process.exit(130));
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) process.once(signal, broken);
  try {
    return await torture({ teardown: (each) => cleanups.unshift(each) }, options);
  } finally {
    for (const signal of signals) process.removeListener(signal, broken);
    await clean();
  }
}

const numbers = (text: string): number[] => text.split(",").map(Number);

const command = new Command("torture")
  .description("random faults on real clusters in network namespaces")
  .option("--seed <number>", "the same seed: the same faults", Number, Math.floor(Math.random() * 1e6))
  .option("--faults <count>", "how many", Number, 50)
  .option("--nodes <counts>", "sizes of the clusters, in turn: 3 or 3,5", numbers, [3])
  .option("--clusters <count>", "a series: so many clusters, each with the next seed", Number, 1)
  .option("--out <file>", "append each cluster's result to this file, a line of JSON each")
  .option("--policy <policy>", "as of quorate up", "majority")
  .option("--only <text>", "only faults whose name matches this pattern")
  .option("--except <text>", "no faults whose name matches this pattern")
  .option("--damping", "with the damping of leader changes (a flapping link), which is off here", false)
  .option("--certificates", "mutual TLS everywhere, as after quorate certs init", false)
  .option("--stories", "what all components said when a gap was longer than its aim", false)
  .option("--json", "one line for programs", false)
  .option("--list", "print the faults", false)
  .option("--table <files...>", "one table over what --out of earlier runs has written; runs nothing")
  .option("--page <file>", "with --table: put it between the marks of this page, too")
  .parse();

process.exitCode = await main(command.opts<Options>()).catch((error: unknown) => {
  console.error(`torture: ${messageOf(error)}`);
  return 1;
});
process.exit();
