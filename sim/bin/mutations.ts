#!/usr/bin/env node
// npm run sim:mutations [-- --only NAME] [--max-seeds N] [--workers W]
// Every seeded bug must be found by the simulator; prints a table, fails if one survives.

import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { type Mutation, mutations } from "../src/mutations.ts";
import type { MutationFinding, MutationTask } from "./mutation-worker.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    "max-seeds": { type: "string", default: "20000" },
    workers: { type: "string", default: "2" },
    help: { type: "boolean", short: "h", default: false },
  },
});

if (values.help) {
  process.stdout.write(`Usage: npm run sim:mutations -- [options]

Seeds known bugs into the consensus core, one at a time: the simulator must find each.

  --only NAME      just that bug
  --max-seeds N    give up on a bug after N worlds (default 20000)
  --workers W      parallel workers (default 2)
  -h, --help       this text

Example: npm run sim:mutations -- --only coordinator-id-reused
`);
  process.exit(0);
}

function run(mutation: Mutation): Promise<MutationFinding> {
  const workerData: MutationTask = { name: mutation.name, maxSeeds: Number(values["max-seeds"]) };
  const worker = new Worker(new URL("./mutation-worker.ts", import.meta.url), { workerData });
  return new Promise((resolve, reject) => {
    worker.on("message", (finding: MutationFinding) => {
      resolve(finding);
      void worker.terminate();
    });
    worker.on("error", reject);
  });
}

const waiting = mutations.filter((mutation) => values.only === undefined || mutation.name === values.only);
const survivors: string[] = [];
process.stdout.write(`${"mutation".padEnd(32)}${"seed".padStart(6)}  ${"broken".padEnd(16)}first sign\n`);

async function work(): Promise<void> {
  for (let mutation = waiting.shift(); mutation !== undefined; mutation = waiting.shift()) {
    const { seed, invariant, message } = await run(mutation);
    if (seed === null) {
      survivors.push(mutation.name);
    }
    const sign = message.replace(`${invariant}: `, "").slice(0, 90);
    process.stdout.write(
      `${mutation.name.padEnd(32)}${String(seed ?? "-").padStart(6)}  ${(invariant || "SURVIVED").padEnd(16)}${sign}\n`,
    );
  }
}

await Promise.all(Array.from({ length: Math.max(1, Number(values.workers)) }, work));
process.stdout.write(
  survivors.length === 0 ? "every mutation was found\n" : `survived: ${survivors.join(", ")}\n`,
);
process.exitCode = survivors.length === 0 ? 0 : 1;
