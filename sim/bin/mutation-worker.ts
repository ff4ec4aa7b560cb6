// Loads the sources with one mutation in them, and runs seeds until one fails.

import { parentPort, workerData } from "node:worker_threads";
import { mutations } from "../src/mutations.ts";
import { seedBug } from "../src/seeded-bug.ts";

export interface MutationTask {
  readonly name: string;
  readonly maxSeeds: number;
}

export interface MutationFinding {
  readonly seed: number | null;
  readonly seeds: number;
  readonly invariant: string;
  readonly message: string;
}

const { name, maxSeeds } = workerData as MutationTask;
const edited = seedBug(name);
const { runSeed } = await import("../src/run.ts");
if (edited() === 0) {
  throw new Error(`mutation ${name} did not meet its file`);
}

function find(): MutationFinding {
  const from = mutations.find((each) => each.name === name)?.fromSeed ?? 1;
  for (let seed = from; seed < from + maxSeeds; seed += 1) {
    const { failure } = runSeed(seed);
    if (failure !== null) {
      return {
        seed,
        seeds: seed - from + 1,
        invariant: failure.invariant,
        message: failure.message.split("\n")[0] ?? "",
      };
    }
  }
  return { seed: null, seeds: maxSeeds, invariant: "", message: "" };
}

parentPort?.postMessage(find());
