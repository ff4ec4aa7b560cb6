// Runs ranges of seeds in its own thread.

import { parentPort, workerData } from "node:worker_threads";
import { seedBug } from "../src/seeded-bug.ts";

export interface WorkerTask {
  readonly from: number;
  readonly to: number;
  readonly long: boolean;
  readonly twice: boolean;
}

export interface Finding {
  readonly seeds: number;
  readonly events: number;
  readonly elections: number;
  readonly committed: number;
  readonly acknowledged: number;
  readonly reads: number;
  readonly failed: readonly number[];
}

const { mutation } = (workerData ?? {}) as { readonly mutation?: string };
if (mutation !== undefined) {
  seedBug(mutation);
}
const { runSeed } = await import("../src/run.ts");

parentPort?.on("message", ({ from, to, long, twice }: WorkerTask) => {
  const finding = { seeds: to - from, events: 0, elections: 0, committed: 0, acknowledged: 0, reads: 0 };
  const failed: number[] = [];
  for (let seed = from; seed < to; seed += 1) {
    const result = runSeed(seed, false, !long);
    const differs = twice && runSeed(seed, false, !long).traceHash !== result.traceHash;
    if (result.failure !== null || differs) {
      failed.push(seed);
    }
    finding.events += result.events;
    finding.elections += result.elections;
    finding.committed += result.committed;
    finding.acknowledged += result.acknowledged;
    finding.reads += result.reads;
  }
  parentPort?.postMessage({ ...finding, failed } satisfies Finding);
});
