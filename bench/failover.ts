/**
 * npm run bench:failover — kills the leader's Postgres again and again under load, and measures the write gap (last
 * acknowledged to next acknowledged row of one appending client), the time until the killed node streams again, and
 * acknowledged rows lost. With --planned it hands leadership over instead, and the client goes through the gateway, as
 * users' do, and counts its errors.
 */
import { setTimeout as delay } from "node:timers/promises";
import { messageOf } from "@quorate/common";
import { followPicture } from "@quorate/orchestrator/cli/status.ts";
import { gatewayUrl } from "@quorate/orchestrator/cluster/files.ts";
import type { ClusterPicture } from "@quorate/orchestrator/view.ts";
import { Command } from "commander";
import { AppendClient } from "../tests/lib/append-client.ts";
import { createAppendLog, judgeCluster } from "../tests/lib/checks.ts";
import { quorate, TestCluster } from "../tests/lib/cluster.ts";
import { Pgbench } from "../tests/lib/pgbench.ts";
import { formatRow, summarize } from "./statistics.ts";

interface Options {
  readonly kills: number;
  readonly nodes: number;
  readonly clients: number;
  readonly scale: number;
  readonly settleMs: number;
  readonly stories: boolean;
  readonly planned: boolean;
  readonly json: boolean;
}

interface Kill {
  readonly from: string;
  readonly to: string;
  readonly gapMs: number;
  readonly rejoinMs: number;
}

const killTimeoutMs = 60_000;
const storyLines = 250;

/** Event by event, so that no polling interval blurs the figures. */
class Eye {
  #picture: ClusterPicture | undefined;
  readonly #waiters = new Set<() => void>();
  readonly close: () => void;

  constructor(cluster: TestCluster) {
    this.close = followPicture(
      cluster.open,
      (picture) => {
        this.#picture = picture;
        for (const wake of this.#waiters) wake();
      },
      0,
    );
  }

  /** performance.now() when the condition was seen to hold. */
  async seen(what: string, holds: (picture: ClusterPicture) => boolean): Promise<number> {
    return new Promise((resolve, reject) => {
      const wake = (): void => {
        if (this.#picture === undefined || !holds(this.#picture)) return;
        clearTimeout(timer);
        this.#waiters.delete(wake);
        resolve(performance.now());
      };
      const timer = setTimeout(() => {
        this.#waiters.delete(wake);
        reject(new Error(`${what} was not seen within ${killTimeoutMs} ms`));
      }, killTimeoutMs);
      this.#waiters.add(wake);
      wake();
    });
  }
}

async function killOnce(cluster: TestCluster, append: AppendClient, eye: Eye): Promise<Kill> {
  const from = await cluster.leader();
  const killedMs = performance.now();
  cluster.killPostgres(from);
  const acked = append.ackAfter(killedMs);
  const rejoinedMs = await eye.seen(`${from} to stream again`, ({ leader, nodes }) => {
    const node = nodes.find(({ id }) => id === from);
    return leader !== null && leader !== from && node?.streaming === true;
  });
  await acked;
  const to = await cluster.leader();
  return { from, to, gapMs: append.longestGapSince(killedMs).gapMs, rejoinMs: rejoinedMs - killedMs };
}

/** Through the CLI, like an operator. The gap is that of the client, not what the verb takes. */
async function handOver(cluster: TestCluster, append: AppendClient, eye: Eye): Promise<Kill> {
  const from = await cluster.leader();
  const to = cluster.ids[(cluster.ids.indexOf(from) + 1) % cluster.ids.length] ?? from;
  const fromMs = performance.now();
  const { code, stderr } = await quorate("switchover", "--to", to, "--dir", cluster.dir);
  if (code !== 0) throw new Error(stderr);
  await append.ackAfter();
  const rejoinedMs = await eye.seen(
    `${from} to stream`,
    ({ leader, nodes }) => leader === to && nodes.find(({ id }) => id === from)?.streaming === true,
  );
  return { from, to, gapMs: append.longestGapSince(fromMs).gapMs, rejoinMs: rejoinedMs - fromMs };
}

async function run(options: Options): Promise<void> {
  const cleanups: (() => Promise<void> | void)[] = [];
  const say = (line: string): void => {
    if (!options.json) console.log(line);
  };
  try {
    const cluster = await TestCluster.start(
      { teardown: (clean) => cleanups.push(clean) },
      { nodes: options.nodes, gateway: options.planned },
    );
    await cluster.waitUntilWhole();
    await createAppendLog(cluster);
    const pgbench = new Pgbench(cluster, { scale: options.scale, clients: options.clients });
    await pgbench.initialize();
    const throughGateway = options.planned ? gatewayUrl(cluster.open) : undefined;
    const append = new AppendClient(() => (throughGateway === undefined ? cluster.urls : [throughGateway]));
    const eye = new Eye(cluster);
    cleanups.unshift(
      () => pgbench.stop(),
      () => append.stop(),
      eye.close,
    );
    pgbench.start();
    append.start();
    await append.ackAfter();
    const kills: Kill[] = [];
    cleanups.unshift(async () => {
      if (kills.length < options.kills) console.error(await cluster.story(1_000));
    });
    for (let i = 1; i <= options.kills; i++) {
      await delay(options.settleMs); // let the load run
      const kill = await (options.planned ? handOver : killOnce)(cluster, append, eye);
      kills.push(kill);
      const gap = Math.round(kill.gapMs);
      say(
        `${options.planned ? "handover" : "kill"} ${i}: ${kill.from} → ${kill.to}, write gap ${gap} ms, streams again after ${Math.round(kill.rejoinMs)} ms`,
      );
      if (options.stories) say(await cluster.story(storyLines));
      await eye.seen("a whole cluster", ({ leader, nodes }) =>
        nodes.every((n) => n.id === leader || n.streaming),
      );
    }
    await append.stop();
    await pgbench.stop();
    const verdict = await judgeCluster(cluster, [append]);
    report(options, kills, append, verdict);
  } finally {
    for (const clean of cleanups) await clean();
  }
}

function report(
  options: Options,
  kills: readonly Kill[],
  append: AppendClient,
  verdict: Awaited<ReturnType<typeof judgeCluster>>,
): void {
  const gap = summarize(kills.map(({ gapMs }) => gapMs));
  const rejoin = summarize(kills.map(({ rejoinMs }) => rejoinMs));
  const lost = new Set(Object.values(verdict.lost).flat()).size;
  const different = new Set(Object.values(verdict.contents).map((each) => JSON.stringify(each))).size > 1;
  const damaged = Object.values(verdict.damage).flat();
  const errors = Object.fromEntries(append.errors);
  if (options.json) {
    console.log(
      JSON.stringify({
        kills: kills.length,
        gap,
        rejoin,
        acked: append.acks.length,
        errors,
        lost,
        different,
        damaged,
      }),
    );
  } else {
    console.log("");
    console.log(
      `${kills.length} ${options.planned ? "handovers" : "kills of the leader"}, ${options.nodes} nodes, pgbench with ${options.clients} clients`,
    );
    console.log(formatRow("", ["min", "p50", "p99", "max"]));
    console.log(formatRow("write gap, ms", [gap.min, gap.p50, gap.p99, gap.max]));
    console.log(formatRow("streams again, ms", [rejoin.min, rejoin.p50, rejoin.p99, rejoin.max]));
    console.log(`acknowledged rows ${append.acks.length}, of these lost ${lost}`);
    console.log(`errors of the client by code: ${JSON.stringify(errors)}`);
    console.log(
      `contents of the nodes ${different ? "DIFFER" : "equal"}; amcheck: ${damaged.join("; ") || "clean"}`,
    );
  }
  if (lost > 0 || different || damaged.length > 0) process.exitCode = 1;
}

const command = new Command("bench:failover")
  .description("kill the leader under load and measure the write gap")
  .option("--kills <count>", "how often", Number, 10)
  .option("--nodes <count>", "size of the cluster", Number, 3)
  .option("--clients <count>", "clients of pgbench", Number, 4)
  .option("--scale <count>", "scale of pgbench", Number, 2)
  .option("--settle-ms <ms>", "load between two kills", Number, 2_000)
  .option("--planned", "hand leadership over; the client goes through the gateway", false)
  .option("--stories", "what all components said about each kill", false)
  .option("--json", "one line for programs", false)
  .parse();

await run(command.opts<Options>()).catch((error: unknown) => {
  console.error(`bench:failover: ${messageOf(error)}`);
  process.exitCode = 1;
});
process.exit();
