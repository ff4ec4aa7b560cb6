// From a seed to a world and its script.

import { type CohortNode, nodeId } from "@quorate/consensus";
import { actionOf, clocksOf, companions } from "./actions.ts";
import { Random } from "./random.ts";
import { randomRules, rulesetOf } from "./rulesets.ts";
import type { Step, WorldPlan } from "./script.ts";
import { duelOf, leaseOf, lossOf, siegeOf, stormOf } from "./storms.ts";

const zones = ["a", "b", "c"];
const thirdNode: CohortNode = { id: nodeId("n3"), zone: "c", region: "x" };
const threeNodes: readonly CohortNode[] = [
  { id: nodeId("n1"), zone: "a", region: "x" },
  { id: nodeId("n2"), zone: "b", region: "y" },
  thirdNode,
];

type Style = "cluster" | "storm" | "duel" | "loss" | "lease";

/** Seeds from here on are all of one rare kind: a disk lost while the leader is left alone with that node. */
export const siegeSeeds = 1_000_000_000;

function pickStyle(random: Random): Style {
  const dice = random.fraction();
  const limits: readonly (readonly [number, Style])[] = [
    [0.45, "cluster"],
    [0.66, "storm"],
    [0.87, "duel"],
    [0.93, "loss"],
    [1, "lease"],
  ];
  return limits.find(([limit]) => dice < limit)?.[1] ?? "cluster";
}

export interface PlanOptions {
  /** Shorter safety phases: many small runs find more than a few long ones. */
  readonly short: boolean;
}

export function planOf(seed: number, options: PlanOptions = { short: true }): WorldPlan {
  const random = Random.stream(seed, "plan");
  if (seed >= siegeSeeds) {
    return siegeOf(seed, random, threeNodes);
  }
  const count = random.pick([1, 2, 3, 3, 3, 3, 4, 5, 5, 6]);
  const nodes: CohortNode[] = Array.from({ length: count }, (_, index) => ({
    id: nodeId(`n${index + 1}`),
    zone: zones[index % zones.length] ?? "a",
    region: index % 2 === 0 ? "x" : "y",
  }));
  const spare = count >= 3 && random.chance(0.25) ? 1 : 0;
  const founders = nodes.slice(0, count - spare).map((member) => member.id);
  const style = count === 1 ? "cluster" : pickStyle(random);
  let policy =
    style !== "loss" && style !== "lease" && style !== "cluster" && random.chance(style === "storm" ? 1 : 0.6)
      ? randomRules + random.below(1_000_000)
      : random.below(7) + 8 * random.below(2);
  while (rulesetOf(policy, nodes.slice(0, founders.length), 1) === null) {
    policy += 1;
  }
  if (style === "loss" || style === "lease") {
    const enough = nodes.length >= 3 ? nodes : [...nodes, thirdNode].slice(0, 3);
    return (style === "loss" ? lossOf : leaseOf)(seed, random, enough, random.pick([0, 0, 1]));
  }
  if (style === "storm") {
    return stormOf(seed, random, nodes, founders, policy);
  }
  if (style === "duel") {
    return duelOf(seed, random, nodes, founders, policy);
  }
  const orchestrators = random.pick([1, 2, 2, 3]);
  const calm = random.chance(0.25);
  const safetyMs = options.short ? random.between(1_500, 3_500) : random.between(5_000, 20_000);
  const world = {
    seed,
    nodes,
    founders,
    policy,
    orchestrators,
    automatic: random.chance(0.6),
    pace: "calm" as const,
    ...clocksOf(random, nodes, orchestrators, [200, 500]),
    clients: 1 + random.below(3),
    thinkMs: 60,
    reads: 0.55,
    safetyMs,
    loss: calm ? 0 : random.pick([0, 0.01, 0.05, 0.15]),
    duplicate: calm ? 0 : random.pick([0, 0.05, 0.2]),
    stall: calm ? 0 : random.pick([0, 0.02, 0.1]),
    stallMs: random.pick([50, 300, 1_000]),
  };
  const rate = random.pick([1, 3, 6, 10]);
  const rulesOften = random.chance(0.3);
  const steps: Step[] = [];
  let atMs = random.between(100, 500);
  while (atMs < safetyMs) {
    const action = actionOf(random, world, rulesOften);
    steps.push({ atMs, action });
    if (random.chance(0.4)) {
      steps.push(...companions(random, world, action, atMs));
    }
    atMs += random.between(1, 2_000 / rate);
  }
  steps.sort((a, b) => a.atMs - b.atMs);
  return { ...world, steps };
}
