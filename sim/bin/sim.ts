#!/usr/bin/env node
// npm run sim -- --seeds N [--from S] [--workers W] [--minutes M] [--long] [--twice]
// npm run sim -- --seed S [--long]          replays one seed and prints its trace

import { execFileSync } from "node:child_process";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { seedBug } from "../src/seeded-bug.ts";
import type { Finding, WorkerTask } from "./sim-worker.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "2000" },
    from: { type: "string", default: "1" },
    seed: { type: "string" },
    workers: { type: "string", default: "2" },
    minutes: { type: "string" },
    long: { type: "boolean", default: false },
    twice: { type: "boolean", default: false },
    mutation: { type: "string" },
    quiet: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  },
});

if (values.help) {
  process.stdout.write(`Usage: npm run sim -- [options]

Runs the consensus core over a simulated network, clock, disk and Postgres, and checks the invariants.

  --seeds N      how many worlds (default 2000)
  --from S       the first seed (default 1)
  --minutes M    go on for that long instead
  --workers W    parallel workers (default 2)
  --long         longer worlds
  --twice        run each seed twice and compare the traces
  --seed S       replay one seed and print its trace
  --mutation M   with this seeded bug (npm run sim:mutations lists them), to see what a failure looks like
  --quiet        with --seed: only the result
  -h, --help     this text

Example: npm run sim -- --seeds 10000 --from 5001
`);
  process.exit(0);
}

const { mutation } = values;
if (mutation !== undefined) {
  try {
    seedBug(mutation);
  } catch (error) {
    process.stderr.write(`--mutation: ${error instanceof Error ? error.message : error}\n`);
    process.exit(2);
  }
}
const { formatPlan, planOf, runPlan, shrink } = await import("../src/index.ts");
const flags = `${values.long ? " --long" : ""}${mutation === undefined ? "" : ` --mutation ${mutation}`}`;

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) {
    process.stderr.write(`--${name} is a whole number, not "${text}"\n`);
    process.exit(2);
  }
  return value;
}

function commit(): string {
  try {
    return execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
  } catch {
    return "unknown";
  }
}

function report(seed: number, long: boolean): void {
  const plan = planOf(seed, { short: !long });
  const failure = runPlan(plan).failure;
  if (failure === null) {
    process.stdout.write(`seed ${seed} doesn't fail when it is run again: not deterministic\n`);
    return;
  }
  const smaller = shrink(plan, failure.invariant);
  const result = runPlan(smaller, true);
  process.stdout.write(`\nFAILED seed ${seed} at commit ${commit()}: ${failure.message}\n`);
  process.stdout.write(`replay: npm run sim -- --seed ${seed}${flags}\n`);
  process.stdout.write(
    `shrunk from ${plan.steps.length} to ${smaller.steps.length} steps:\n${formatPlan(smaller)}\n`,
  );
  process.stdout.write(`${result.trace.slice(-80).join("\n")}\n`);
}

function replay(seed: number, long: boolean): void {
  const plan = planOf(seed, { short: !long });
  const result = runPlan(plan, !values.quiet);
  process.stdout.write(`${formatPlan(plan)}\n${result.trace.join("\n")}\n`);
  process.stdout.write(
    `seed ${seed}: ${result.failure === null ? "clean" : `FAILED ${result.failure.message}`}; ${result.events} events, ` +
      `${result.elections} elections, ${result.committed} records committed, ${result.acknowledged} writes acknowledged, trace ${result.traceHash.toString(16)}\n`,
  );
  process.exitCode = result.failure === null ? 0 : 1;
}

async function many(): Promise<void> {
  const workers = Math.max(1, whole("workers", values.workers));
  const from = whole("from", values.from);
  const minutes = values.minutes === undefined ? null : whole("minutes", values.minutes);
  const to = minutes === null ? from + whole("seeds", values.seeds) : Number.MAX_SAFE_INTEGER;
  const startedAt = performance.now();
  const deadlineMs = minutes === null ? Number.POSITIVE_INFINITY : startedAt + minutes * 60_000;
  const chunk = 100;
  let next = from;
  const total = {
    seeds: 0,
    events: 0,
    elections: 0,
    committed: 0,
    acknowledged: 0,
    reads: 0,
    failed: [] as number[],
  };
  let printedAt = startedAt;

  function nextTask(): WorkerTask | null {
    if (next >= to || performance.now() > deadlineMs || total.failed.length >= 20) {
      return null;
    }
    const task = { from: next, to: Math.min(next + chunk, to), long: values.long, twice: values.twice };
    next = task.to;
    return task;
  }

  function take(finding: Finding): void {
    total.seeds += finding.seeds;
    total.events += finding.events;
    total.elections += finding.elections;
    total.committed += finding.committed;
    total.acknowledged += finding.acknowledged;
    total.reads += finding.reads;
    total.failed.push(...finding.failed);
    for (const seed of finding.failed) {
      process.stdout.write(`seed ${seed} failed\n`);
    }
    if (performance.now() - printedAt > 30_000) {
      printedAt = performance.now();
      const megabytes = Math.round(process.memoryUsage().rss / 1_048_576);
      process.stdout.write(`${total.seeds} seeds, ${total.failed.length} failed, ${megabytes} MB\n`);
    }
  }

  await Promise.all(
    Array.from({ length: workers }, () => {
      const worker = new Worker(new URL("./sim-worker.ts", import.meta.url), { workerData: { mutation } });
      return new Promise<void>((resolve, reject) => {
        const give = (): void => {
          const task = nextTask();
          if (task === null) {
            void worker.terminate().then(() => resolve());
          } else {
            worker.postMessage(task);
          }
        };
        worker.on("message", (finding: Finding) => {
          take(finding);
          give();
        });
        worker.on("error", reject);
        give();
      });
    }),
  );
  const seconds = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage();
  const cpuSeconds = (user + system) / 1_000_000;
  const perCpuMinute = Math.round((total.seeds / cpuSeconds) * 60);
  for (const seed of total.failed.slice(0, 3)) {
    report(seed, values.long);
  }
  process.stdout.write(
    `${total.seeds} seeds in ${seconds.toFixed(1)} s (${Math.round((total.seeds / seconds) * 60)} a minute, ${perCpuMinute} a minute of one processor): ` +
      `${total.events} events, ${total.elections} elections, ${total.committed} records committed, ` +
      `${total.acknowledged} writes acknowledged, ${total.reads} reads; ${total.failed.length} failed${total.failed.length > 0 ? `: ${total.failed.join(", ")}` : ""}\n`,
  );
  process.exitCode = total.failed.length === 0 ? 0 : 1;
}

if (values.seed === undefined) {
  await many();
} else {
  replay(whole("seed", values.seed), values.long);
}
