// Worlds without a failure table: storms of coordinators, duels between two, and disks lost behind their backs.

import type { CohortNode, NodeId } from "@quorate/consensus";
import { clocksOf, pairsOf } from "./actions.ts";
import type { Random } from "./random.ts";
import { randomRules } from "./rulesets.ts";
import { type Action, orchestratorNames, type Step, type WorldPlan } from "./script.ts";

/** A script in the order of time. */
function inOrder(steps: Step[]): Step[] {
  return steps.sort((a, b) => a.atMs - b.atMs);
}

/** Three clients, no faults but those of the script, all nodes founders. */
function quietWorld(seed: number, nodes: readonly CohortNode[], policy: number) {
  return {
    seed,
    nodes,
    founders: nodes.map(({ id }) => id),
    policy,
    orchestrators: 2,
    automatic: false,
    clients: 3,
    thinkMs: 60,
    reads: 0.55,
    loss: 0,
    duplicate: 0,
    stall: 0,
    stallMs: 100,
  };
}

/** No failure table, no patience: coordinators at random moments, strange rules, a network that rearranges itself. */
export function stormOf(
  seed: number,
  random: Random,
  nodes: readonly CohortNode[],
  founders: readonly NodeId[],
  policy: number,
): WorldPlan {
  const safetyMs = random.between(600, 2_000);
  const orchestrators = random.pick([1, 2, 2, 3]);
  const world = {
    ...quietWorld(seed, nodes, policy),
    founders,
    orchestrators,
    pace: "hasty" as const,
    ...clocksOf(random, nodes, orchestrators, [150]),
    safetyMs,
    loss: random.pick([0, 0, 0.02, 0.1]),
    duplicate: random.pick([0, 0.1]),
    stall: random.pick([0, 0.1, 0.3]),
    stallMs: random.pick([30, 100, 400]),
  };
  const pauseMs = random.pick([15, 40, 80, 120]);
  const steps: Step[] = [];
  for (let atMs = 60; atMs < safetyMs; atMs += random.between(0, 2 * pauseMs)) {
    const action = stormAction(random, world);
    steps.push({ atMs, action });
    if (random.chance(0.5)) {
      steps.push(...afterwards(random, world, action, atMs));
    }
  }
  return { ...world, steps: inOrder(steps) };
}

/**
 * Rounds, as in the worked examples of every consensus paper: some nodes and one coordinator see each other, a leader
 * change or a rules change begins, and before or after it is done the next round has other nodes see each other.
 */
export function duelOf(
  seed: number,
  random: Random,
  nodes: readonly CohortNode[],
  founders: readonly NodeId[],
  policy: number,
): WorldPlan {
  const orchestrators = random.pick([1, 2, 3]);
  const names = [...nodes.map((member) => member.id), ...orchestratorNames(orchestrators)];
  const steps: Step[] = [];
  const rounds = 8 + random.below(20);
  let atMs = 300;
  let restarted: number | null = null;
  for (let round = 0; round < rounds; round += 1) {
    const at: number = restarted ?? random.below(orchestrators);
    const ms = random.pick([10, 25, 60, 150]) * random.between(0.5, 1.5);
    const together = new Set<string>([
      ...nodes.filter(() => random.chance(0.6)).map((member) => member.id),
      `o${at + 1}`,
    ]);
    const pairs = names.flatMap((a) =>
      names.filter((b) => a !== b && !(together.has(a) && together.has(b))).map((b) => [a, b] as const),
    );
    steps.push({ atMs, action: { kind: "cut", pairs, ms } });
    const inside = [...together].filter((name) => !name.startsWith("o"));
    const rules = randomRules + random.below(1_000_000);
    const dice = random.fraction();
    const change: Action = {
      kind: "change",
      at,
      candidate: inside.length > 0 && random.chance(0.3) ? (random.pick(inside) as NodeId) : null,
      lease: false,
    };
    const begins: Action =
      dice < 0.75
        ? change
        : dice < 0.9
          ? { kind: "rulesNow", policy: rules, without: [] }
          : { kind: "rules", at, policy: rules, without: [], byCoordinator: true };
    steps.push({ atMs: atMs + (restarted === null ? 0.5 : 5), action: begins });
    restarted = null;
    if (random.chance(0.25)) {
      const { id } = random.pick(nodes);
      if (random.chance(0.5)) {
        const hit: Action = { kind: "powerCut", nodes: [id], downMs: random.between(5, 100) };
        steps.push({ atMs: atMs + random.between(0, ms), action: hit });
      } else {
        // It forgets all, and acts again in the next round.
        restarted = at;
        steps.push({ atMs: atMs + ms - 2, action: { kind: "killOrchestrator", at, downMs: 1 } });
      }
    }
    atMs += ms;
  }
  return {
    ...quietWorld(seed, nodes, policy),
    founders,
    orchestrators,
    pace: "hasty" as const,
    ...clocksOf(random, nodes, orchestrators, []),
    clients: random.pick([1, 3]),
    safetyMs: atMs + 20,
    duplicate: random.pick([0, 0.1]),
    stall: random.pick([0, 0, 0.2]),
    steps: inOrder(steps),
  };
}

/**
 * A disk is lost behind a coordinator's back: it was told something by the old life of a node, hears the others much
 * later, and meanwhile another orchestrator has replaced that node.
 */
export function lossOf(
  seed: number,
  random: Random,
  nodes: readonly CohortNode[],
  policy: number,
): WorldPlan {
  const steps: Step[] = [];
  const rounds = 1 + random.below(3);
  let atMs = 600;
  for (let round = 0; round < rounds; round += 1) {
    const { id: lost } = random.pick(nodes);
    const extraMs = random.between(300, 1_400);
    for (const { id } of nodes) {
      if (id !== lost) {
        steps.push({ atMs, action: { kind: "slowEdge", from: "o1", to: id, extraMs, ms: 40 } });
      }
    }
    steps.push({ atMs: atMs + 1, action: { kind: "change", at: 0, candidate: null, lease: false } });
    const goneMs = atMs + random.between(5, 30);
    steps.push({ atMs: goneMs, action: { kind: "loseDisk", node: lost, downMs: random.between(5, 60) } });
    if (random.chance(0.6)) {
      const away = random.pick(nodes).id;
      const pairs = nodes
        .flatMap(({ id }) => [[id, away] as const, [away, id] as const])
        .filter(([a, b]) => a !== b);
      const cutMs = atMs + extraMs + random.between(-30, 30);
      steps.push({ atMs: cutMs, action: { kind: "cut", pairs, ms: random.between(50, 500) } });
    }
    atMs += extraMs + random.between(600, 1_500);
  }
  return {
    ...quietWorld(seed, nodes, policy),
    pace: "patient",
    ...clocksOf(random, nodes, 2, []),
    safetyMs: atMs,
    duplicate: random.pick([0, 0.1]),
    steps: inOrder(steps),
  };
}

/**
 * A slow coordinator has heard one node, which then loses its disk; until it reaches a second one, the leader sees that
 * node's new life and nobody else. What they do together must be found by whoever the slow coordinator makes leader.
 */
export function siegeOf(seed: number, random: Random, nodes: readonly CohortNode[]): WorldPlan {
  const plan = lossOf(seed, random, nodes, 0);
  const ids = nodes.map(({ id }) => id);
  // Half of them: one node joins first, so that there are rules in the log that don't speak of it.
  const joins = random.chance(0.5) ? random.pick(ids) : null;
  const laterMs = joins === null ? 0 : 1_200;
  const steps: Step[] = [];
  if (joins !== null) {
    const grow: Action = { kind: "cohort", at: 1, policy: 0, members: ids, leave: false, forMs: 1_500 };
    steps.push({ atMs: 100, action: grow });
  }
  for (const step of plan.steps) {
    const { action } = step;
    const atMs = step.atMs + laterMs;
    if (action.kind === "cut") {
      continue;
    }
    const hits = action.kind === "loseDisk" && joins !== null && random.chance(0.7);
    const hit: Action = hits ? { ...action, node: joins } : action;
    steps.push({ atMs, action: hit });
    if (hit.kind === "loseDisk") {
      const away = random.pick(ids.filter((id) => id !== hit.node));
      const pairs = ids
        .filter((id) => id !== away)
        .flatMap((id) => [[id, away] as const, [away, id] as const]);
      steps.push({ atMs: atMs + 1, action: { kind: "cut", pairs, ms: random.between(800, 2_000) } });
    }
  }
  const founders = ids.filter((id) => id !== joins);
  return { ...plan, founders, safetyMs: plan.safetyMs + laterMs, steps: inOrder(steps) };
}

/** Readers everywhere, and again and again the leader is cut off while another one is made: what it answers must hold. */
export function leaseOf(
  seed: number,
  random: Random,
  nodes: readonly CohortNode[],
  policy: number,
): WorldPlan {
  const steps: Step[] = [];
  const rounds = 2 + random.below(4);
  let atMs = 500;
  for (let round = 0; round < rounds; round += 1) {
    const together = nodes.filter(() => random.chance(0.3)).map(({ id }) => id);
    const jumpMs = random.chance(0.4) ? -random.between(100, 2_000) : 0;
    const ms = random.between(200, 1_200);
    const adopted = random.chance(0.25);
    steps.push({ atMs, action: { kind: "isolateLeader", together, jumpMs, adopted, ms } });
    for (let at = 0; at < 2; at += 1) {
      const begins: Action = { kind: "change", at, candidate: null, lease: false };
      steps.push({ atMs: atMs + random.between(adopted ? 6 : 1, 60), action: begins });
    }
    atMs += ms + random.between(200, 500);
  }
  return {
    ...quietWorld(seed, nodes, policy),
    automatic: random.chance(0.5),
    pace: "calm",
    ...clocksOf(random, nodes, 2, [200, 500]),
    clients: 4,
    thinkMs: 20,
    reads: 0.8,
    safetyMs: atMs,
    stall: random.pick([0, 0.05]),
    steps: inOrder(steps),
  };
}

/** In a storm: what hits a leader change or a rules change in its middle. */
function afterwards(random: Random, world: Omit<WorldPlan, "steps">, action: Action, atMs: number): Step[] {
  const soonMs = atMs + random.between(0, random.pick([8, 20, 40]));
  switch (action.kind) {
    case "change":
    case "rulesNow":
    case "rules": {
      const { id } = random.pick(world.nodes);
      const ms = random.between(20, 300);
      const hit: Action = random.chance(0.6)
        ? { kind: "cut", pairs: pairsOf(random, world), ms }
        : { kind: "powerCut", nodes: [id], downMs: ms };
      const at = random.below(world.orchestrators);
      const then: Action = { kind: "change", at, candidate: null, lease: false };
      return [
        { atMs: soonMs, action: hit },
        { atMs: soonMs + random.between(1, 30), action: then },
      ];
    }
    case "killOrchestrator": {
      const { at } = action;
      const again: Action = { kind: "change", at, candidate: null, lease: false };
      return [{ atMs: atMs + action.downMs + random.between(2, 30), action: again }];
    }
    default:
      return [];
  }
}

function stormAction(random: Random, world: Omit<WorldPlan, "steps">): Action {
  const ids = world.nodes.map((member) => member.id);
  const one = random.pick(ids);
  const at = random.below(world.orchestrators);
  const ms = random.between(10, 300);
  const dice = random.fraction();
  if (dice < 0.35) {
    return { kind: "change", at, candidate: random.chance(0.4) ? one : null, lease: false };
  }
  if (dice < 0.6) {
    const policy = randomRules + random.below(1_000_000);
    const without = random.chance(0.3) ? [one] : [];
    return random.chance(0.3)
      ? { kind: "rules", at, policy, without, byCoordinator: true }
      : { kind: "rulesNow", policy, without };
  }
  if (dice < 0.8) {
    return { kind: "cut", pairs: pairsOf(random, world), ms };
  }
  if (dice < 0.85) {
    return { kind: "killPostgres", node: one };
  }
  if (dice < 0.93) {
    return { kind: "powerCut", nodes: [one], downMs: ms };
  }
  return dice < 0.97
    ? { kind: "freezePostgres", node: one, ms }
    : { kind: "killOrchestrator", at, downMs: random.between(1, 40) };
}
