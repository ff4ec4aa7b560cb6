// One seed, and making a failing script smaller.

import { planOf } from "./plans.ts";
import type { WorldPlan } from "./script.ts";
import { type RunResult, World } from "./world.ts";

export function runSeed(seed: number, keepTrace = false, short = true): RunResult {
  return new World(planOf(seed, { short }), keepTrace).run();
}

export function runPlan(plan: WorldPlan, keepTrace = false): RunResult {
  return new World(plan, keepTrace).run();
}

/** Takes steps out of the script as long as the same invariant breaks; bounded. */
export function shrink(plan: WorldPlan, invariant: string, maxRuns = 400): WorldPlan {
  let best = plan;
  let runs = 0;
  const fails = (candidate: WorldPlan): boolean => {
    runs += 1;
    return runPlan(candidate).failure?.invariant === invariant;
  };
  for (let size = Math.ceil(best.steps.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    let at = 0;
    while (at < best.steps.length && runs < maxRuns) {
      const candidate = { ...best, steps: [...best.steps.slice(0, at), ...best.steps.slice(at + size)] };
      if (fails(candidate)) {
        best = candidate;
      } else {
        at += size;
      }
    }
  }
  for (const simpler of simplifications(best)) {
    const candidate = { ...best, ...simpler };
    if (runs < maxRuns && fails(candidate)) {
      best = candidate;
    }
  }
  return best;
}

function simplifications(plan: WorldPlan): Partial<WorldPlan>[] {
  const simpler: Partial<WorldPlan>[] = [];
  for (const key of ["loss", "duplicate", "stall"] as const) {
    if (plan[key] > 0) {
      simpler.push({ [key]: 0 });
    }
  }
  for (let clients = 1; clients < plan.clients; clients += 1) {
    simpler.push({ clients });
  }
  return simpler;
}

/** A plan for people: the world in one line, then one line per step. */
export function formatPlan(plan: WorldPlan): string {
  const { steps, nodes, ...world } = plan;
  const lines = [
    `world ${JSON.stringify(world)} nodes ${nodes.map((each) => `${each.id}/${each.zone}`).join(" ")}`,
  ];
  for (const { atMs, action } of steps) {
    lines.push(`${atMs.toFixed(2)} ${JSON.stringify(action)}`);
  }
  return lines.join("\n");
}
