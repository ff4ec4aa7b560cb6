/**
 * npm run bench:commit — commits per second and their latency, against stock synchronous replication (`ANY 1`, on and
 * remote_apply) and against asynchronous replication: interleaved in random order, medians of the ratios of each round.
 */
import path from "node:path";
import { messageOf, runAsPostgres } from "@quorate/common";
import { Command } from "commander";
import { binDirectory, type Server } from "../regress/lib/cluster.ts";
import { makeRandom } from "../regress/lib/random.ts";
import { ensurePostgres } from "../scripts/build-postgres.ts";
import { type Contestants, contestants, type Mode, modes } from "./commit-modes.ts";
import { formatRow } from "./statistics.ts";

type Run = { readonly tps: number; readonly latencyMs: number };

type Line = {
  readonly script: string;
  readonly clients: number;
  readonly roundTripMs: number;
  readonly runs: Readonly<Record<Mode, readonly Run[]>>;
};

const scripts = { "tpcb-like": "TPC-B", "simple-update": "simple update" } as const;
type Script = keyof typeof scripts;

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle)] ?? Number.NaN)) / 2;
};

async function pgbench(bin: string, server: Server, script: Script, clients: number, seconds: number) {
  const { stdout } = await runAsPostgres(
    path.join(bin, "pgbench"),
    [
      ...["-n", "-M", "prepared", "-b", script, "-c", String(clients), "-j", String(Math.min(clients, 2))],
      ...["-T", String(seconds), "-h", server.socketDirectory, "-U", "postgres", "postgres"],
    ],
    { timeoutMs: (seconds + 60) * 1000 },
  );
  const tps = Number(/tps = ([\d.]+)/.exec(stdout)?.[1]);
  const latencyMs = Number(/latency average = ([\d.]+) ms/.exec(stdout)?.[1]);
  if (!(tps > 0) || !(latencyMs > 0)) throw new Error(`pgbench printed no figures: ${stdout}`);
  return { tps, latencyMs };
}

type Plan = {
  readonly bin: string;
  readonly peers: readonly Mode[];
  readonly rounds: number;
  readonly seconds: number;
  readonly clients: readonly number[];
  readonly seed: number;
};

async function measure(all: Contestants, plan: Plan, roundTripMs: number): Promise<Line[]> {
  const random = makeRandom(plan.seed);
  const lines: Line[] = [];
  for (const script of Object.keys(scripts) as Script[]) {
    for (const clients of plan.clients) {
      const runs: Record<Mode, Run[]> = { quorate: [], on: [], remote_apply: [], async: [] };
      for (let round = 0; round < plan.rounds; round++) {
        for (const mode of random.shuffle(["quorate" as Mode, ...plan.peers])) {
          const server = await all.use(mode);
          runs[mode].push(await pgbench(plan.bin, server, script, clients, plan.seconds));
        }
      }
      lines.push({ script: scripts[script], clients, roundTripMs, runs });
      console.log(lineText(plan.peers, { script: scripts[script], clients, roundTripMs, runs }));
    }
  }
  return lines;
}

const ratioTo = (line: Line, peer: Mode): number =>
  median(line.runs.quorate.map(({ tps }, round) => tps / (line.runs[peer][round]?.tps ?? Number.NaN)));

function lineText(peers: readonly Mode[], line: Line): string {
  const ratios = peers.map((peer) => ratioTo(line, peer).toFixed(2));
  const figures = (["quorate", ...peers] as const).map((mode) => {
    const runs = line.runs[mode];
    return `${Math.round(median(runs.map(({ tps }) => tps)))} (${median(runs.map(({ latencyMs }) => latencyMs)).toFixed(2)} ms)`;
  });
  const title = `${line.script} ${line.clients}, ${line.roundTripMs} ms`;
  return formatRow(title.padEnd(26), [...ratios, ...figures.map((each) => each.padStart(20))]);
}

function peersOf(text: string): Mode[] {
  const peers = text.split(",").map((name) => modes.slice(1).find((each) => each === name));
  if (peers.includes(undefined)) throw new Error(`"${text}" is no list of ${modes.slice(1).join(", ")}`);
  return peers as Mode[];
}

const numbers = (text: string): number[] => {
  const list = text.split(",").map(Number);
  if (list.some((n) => !(n >= 0))) throw new Error(`"${text}" is no list of numbers`);
  return list;
};

async function main(): Promise<void> {
  const command = new Command("bench:commit")
    .description("commits per second against stock synchronous and asynchronous replication")
    .option("--rounds <n>", "of each combination", "5")
    .option("--seconds <n>", "per run", "10")
    .option("--clients <list>", "numbers of clients", "1,8,32")
    .option("--rtt <list>", "round trips between the nodes in ms", "0,1")
    .option("--scale <n>", "of pgbench", "20")
    .option("--against <list>", "whom to compare with", modes.slice(1).join(","))
    .option("--seed <n>", "of the order", String(Date.now() % 100_000))
    .option("--json", "print all runs as JSON at the end")
    .parse();
  const options = command.opts<Record<string, string> & { json?: boolean }>();
  const bin = await binDirectory();
  const stockBin = process.env["QUORATE_STOCK_BIN"] ?? (await ensurePostgres({ flavour: "stock" })).bin;
  const plan: Plan = {
    bin,
    peers: peersOf(options["against"] ?? ""),
    rounds: Number(options["rounds"]),
    seconds: Number(options["seconds"]),
    clients: numbers(options["clients"] ?? ""),
    seed: Number(options["seed"]),
  };
  console.log(
    formatRow("script clients, rtt".padEnd(26), [
      ...plan.peers.map((mode) => `÷${mode}`.slice(0, 8)),
      ...(["quorate", ...plan.peers] as const).map((mode) => mode.padStart(20)),
    ]),
  );
  const lines: Line[] = [];
  for (const roundTripMs of numbers(options["rtt"] ?? "")) {
    const all = await contestants(stockBin, Number(options["scale"]), roundTripMs);
    try {
      lines.push(...(await measure(all, plan, roundTripMs)));
    } finally {
      await all.dispose();
    }
  }
  if (options.json === true) console.log(JSON.stringify(lines));
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

await main().catch((error: unknown) => {
  console.error(`bench:commit: ${messageOf(error)}`);
  process.exitCode = 1;
});
