// Loads the sources with one mutation in them, and runs seeds until one fails.

import { registerHooks } from "node:module";
import { parentPort, workerData } from "node:worker_threads";
import { applyEdits, mutations } from "../src/mutations.ts";

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
const mutation = mutations.find((each) => each.name === name);
if (mutation === undefined) {
  throw new Error(`there is no mutation ${name}`);
}
const edited = new Set<string>();
registerHooks({
  load(url, context, nextLoad) {
    const result = nextLoad(url, context);
    if (!mutation.edits.some((edit) => url.endsWith(`/${edit.file}`))) {
      return result;
    }
    edited.add(url);
    return { ...result, source: applyEdits(mutation, url, String(result.source)) };
  },
});

const { runSeed } = await import("../src/run.ts");
if (edited.size === 0) {
  throw new Error(`mutation ${name} did not meet its file`);
}

function find(): MutationFinding {
  for (let seed = 1; seed <= maxSeeds; seed += 1) {
    const { failure } = runSeed(seed);
    if (failure !== null) {
      return {
        seed,
        seeds: seed,
        invariant: failure.invariant,
        message: failure.message.split("\n")[0] ?? "",
      };
    }
  }
  return { seed: null, seeds: maxSeeds, invariant: "", message: "" };
}

parentPort?.postMessage(find());
