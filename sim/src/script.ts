// A run is a world and a script: what faults and operators do, and when. Everything is made from the seed before
// the run begins, so that a failing script can be cut down.

import {
  atLeast,
  type CohortNode,
  compilePolicy,
  findPolicy,
  type NodeId,
  node,
  nodeId,
  type Rule,
  type Ruleset,
} from "@quorate/consensus";
import { Random } from "./random.ts";

export type Action =
  | { readonly kind: "killPostgres"; readonly node: NodeId }
  | { readonly kind: "killSidecar"; readonly node: NodeId; readonly downMs: number }
  | { readonly kind: "killBoth"; readonly node: NodeId; readonly downMs: number }
  | { readonly kind: "powerCut"; readonly nodes: readonly NodeId[]; readonly downMs: number }
  | { readonly kind: "freezePostgres"; readonly node: NodeId; readonly ms: number }
  | { readonly kind: "freezeSidecar"; readonly node: NodeId; readonly ms: number }
  | { readonly kind: "freezeOrchestrator"; readonly at: number; readonly ms: number }
  | { readonly kind: "killOrchestrator"; readonly at: number; readonly downMs: number }
  | { readonly kind: "cut"; readonly pairs: readonly (readonly [string, string])[]; readonly ms: number }
  | { readonly kind: "slow"; readonly delayMs: number; readonly stallMs: number; readonly ms: number }
  | { readonly kind: "switchover"; readonly at: number; readonly to: NodeId }
  | {
      readonly kind: "change";
      readonly at: number;
      readonly candidate: NodeId | null;
      readonly lease: boolean;
    }
  | {
      readonly kind: "rules";
      readonly at: number;
      readonly policy: number;
      readonly without: readonly NodeId[];
      readonly byCoordinator: boolean;
    }

  /** Whoever leads is asked at once: an operator without an orchestrator. */
  | { readonly kind: "rulesNow"; readonly policy: number; readonly without: readonly NodeId[] };

export interface Step {
  readonly atMs: number;
  readonly action: Action;
}

export interface WorldPlan {
  readonly seed: number;
  readonly nodes: readonly CohortNode[];
  /** Nodes that have data and are in the cohort from the start; the others are empty. */
  readonly founders: readonly NodeId[];
  readonly policy: number;
  readonly orchestrators: number;
  readonly automatic: boolean;
  readonly hasty: boolean;
  readonly clients: number;
  readonly safetyMs: number;
  readonly loss: number;
  readonly duplicate: number;
  readonly stall: number;
  readonly stallMs: number;
  readonly steps: readonly Step[];
}

const zones = ["a", "b", "c"];

export function isQuorate(ruleset: Ruleset | null): ruleset is Ruleset {
  return ruleset !== null;
}

/** Policies by number; null when the nodes don't fit. Numbers, so that a script stays plain data. */
export function rulesetOf(policy: number, nodes: readonly CohortNode[], version: number): Ruleset | null {
  if (policy >= randomRules) {
    return randomRuleset(policy, nodes, version);
  }
  const names = ["majority", "any-n", "cross-zone", "two-zones", "majority", "explicit", "explicit"];
  const kind = policy % names.length;
  const found = findPolicy(names[kind] ?? "majority");
  if (found === undefined || nodes.length === 0) {
    return null;
  }
  let options: Record<string, unknown> = {};
  const ids = nodes.map((member) => member.id).sort();
  const [first, second, third, ...rest] = ids;
  if (names[kind] === "any-n") {
    options = { n: 1 + ((policy >> 3) % 2) };
  } else if (kind === 4 && nodes.length > 2) {
    options = { ineligible: [ids.at(-1)] };
  } else if (kind === 5) {
    // The six-node example: the leader is no leaf of its own rule.
    if (first === undefined || second === undefined || third === undefined || rest.length < 2) {
      return null;
    }
    const [fourth, ...last] = rest;
    options = { leaders: { [first]: `2(${second},${third})`, [fourth ?? first]: `1(${last.join(",")})` } };
  } else if (kind === 6) {
    if (second === undefined || first === undefined) {
      return null;
    }
    options = { leaders: { [first]: second, [second]: `1(${[first, third ?? first].join(",")})` } };
  }
  const compiled = compilePolicy({ policy: found, nodes, options, version });
  return compiled.ok ? compiled.ruleset : null;
}

const randomRules = 1_000;

/** Rules that nobody would choose: any threshold trees over any of the nodes, another for each leader. */
function randomRuleset(policy: number, nodes: readonly CohortNode[], version: number): Ruleset | null {
  const random = Random.stream(policy, "rules");
  const ids = nodes.map((member) => member.id);
  const tree = (depth: number): Rule => {
    if (depth === 0 || random.chance(0.5)) {
      return node(random.pick(ids));
    }
    const rules = Array.from({ length: 1 + random.below(4) }, () => tree(depth - 1));
    return atLeast(1 + random.below(rules.length), rules);
  };
  const leaders = new Map<NodeId, Rule>();
  for (const id of ids) {
    if (random.chance(0.7)) {
      leaders.set(id, tree(2));
    }
  }
  return leaders.size === 0 ? null : { version, name: `random-${policy}`, cohort: nodes, leaders };
}

export interface PlanOptions {
  /** Shorter safety phases: many small runs find more than a few long ones. */
  readonly short: boolean;
}

export function planOf(seed: number, options: PlanOptions = { short: true }): WorldPlan {
  const random = Random.stream(seed, "plan");
  const count = random.pick([1, 2, 3, 3, 3, 3, 4, 5, 5, 6]);
  const nodes: CohortNode[] = Array.from({ length: count }, (_, index) => ({
    id: nodeId(`n${index + 1}`),
    zone: zones[index % zones.length] ?? "a",
    region: index % 2 === 0 ? "x" : "y",
  }));
  const spare = count >= 3 && random.chance(0.25) ? 1 : 0;
  const founders = nodes.slice(0, count - spare).map((member) => member.id);
  const style = count === 1 ? "cluster" : random.pick(["cluster", "cluster", "storm", "duel"] as const);
  let policy =
    style !== "cluster" && random.chance(style === "storm" ? 1 : 0.6)
      ? randomRules + random.below(1_000_000)
      : random.below(7) + 8 * random.below(2);
  while (rulesetOf(policy, nodes.slice(0, founders.length), 1) === null) {
    policy += 1;
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
    hasty: false,
    clients: 1 + random.below(3),
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

/** No failure table, no patience: coordinators at random moments, strange rules, a network that rearranges itself. */
function stormOf(
  seed: number,
  random: Random,
  nodes: readonly CohortNode[],
  founders: readonly NodeId[],
  policy: number,
): WorldPlan {
  const safetyMs = random.between(600, 2_000);
  const world = {
    seed,
    nodes,
    founders,
    policy,
    orchestrators: random.pick([1, 2, 2, 3]),
    automatic: false,
    hasty: true,
    clients: 3,
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
  steps.sort((a, b) => a.atMs - b.atMs);
  return { ...world, steps };
}

/**
 * Rounds, as in the worked examples of every consensus paper: some nodes and one coordinator see each other, a leader
 * change or a rules change begins, and before or after it is done the next round has other nodes see each other.
 */
function duelOf(
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
  steps.sort((a, b) => a.atMs - b.atMs);
  return {
    seed,
    nodes,
    founders,
    policy,
    orchestrators,
    automatic: false,
    hasty: true,
    clients: random.pick([1, 3]),
    safetyMs: atMs + 20,
    loss: 0,
    duplicate: random.pick([0, 0.1]),
    stall: random.pick([0, 0, 0.2]),
    stallMs: 100,
    steps,
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

/** Things that are most dangerous right after something else: a cut after a rules change, a race of coordinators. */
function companions(random: Random, world: Omit<WorldPlan, "steps">, action: Action, atMs: number): Step[] {
  const soon = (): number => atMs + random.between(0, random.pick([3, 10, 40]));
  const change = (at: number): Action => ({ kind: "change", at, candidate: null, lease: false });
  switch (action.kind) {
    case "rules":
      return [
        {
          atMs: soon(),
          action: { kind: "cut", pairs: pairsOf(random, world), ms: random.between(100, 1_500) },
        },
        ...Array.from({ length: world.orchestrators }, (_, at) => ({ atMs: soon(), action: change(at) })),
      ];
    case "change":
    case "switchover":
      return random.chance(0.5)
        ? [{ atMs: soon(), action: change(random.below(world.orchestrators)) }]
        : [{ atMs: soon(), action: { kind: "killPostgres", node: random.pick(world.nodes).id } }];
    case "cut":
      return [{ atMs: soon(), action: change(random.below(world.orchestrators)) }];
    case "powerCut":
    case "killPostgres":
      return world.automatic ? [] : [{ atMs: soon(), action: change(random.below(world.orchestrators)) }];
    default:
      return [];
  }
}

function actionOf(random: Random, world: Omit<WorldPlan, "steps">, rulesOften: boolean): Action {
  const ids = world.nodes.map((member) => member.id);
  const one = random.pick(ids);
  const at = random.below(world.orchestrators);
  const downMs = random.between(20, 1_200);
  const kind = rulesOften && random.chance(0.4) ? 18 : random.below(world.automatic ? 22 : 30);
  switch (kind) {
    case 0:
    case 1:
    case 2:
      return { kind: "killPostgres", node: one };
    case 3:
      return { kind: "killSidecar", node: one, downMs };
    case 4:
      return { kind: "killBoth", node: one, downMs };
    case 5:
    case 6:
      return { kind: "powerCut", nodes: random.chance(0.2) ? ids : [one], downMs };
    case 7:
      return { kind: "freezePostgres", node: one, ms: downMs };
    case 8:
      return { kind: "freezeSidecar", node: one, ms: downMs };
    case 9:
      return { kind: "freezeOrchestrator", at, ms: downMs };
    case 10:
      return { kind: "killOrchestrator", at, downMs };
    case 11:
    case 12:
    case 13:
    case 14:
      return { kind: "cut", pairs: pairsOf(random, world), ms: random.between(50, 1_500) };
    case 15:
      return { kind: "slow", delayMs: random.between(5, 60), stallMs: random.between(100, 900), ms: downMs };
    case 16:
    case 17:
      return { kind: "switchover", at, to: one };
    case 18:
    case 19:
      return {
        kind: "rules",
        at,
        policy: random.below(16),
        without: random.chance(0.4) ? [one] : [],
        byCoordinator: random.chance(0.4),
      };
    default:
      return { kind: "change", at, candidate: random.chance(0.5) ? one : null, lease: random.chance(0.1) };
  }
}

function pairsOf(random: Random, world: Omit<WorldPlan, "steps">): (readonly [string, string])[] {
  const names: string[] = [
    ...world.nodes.map((member) => member.id),
    ...orchestratorNames(world.orchestrators),
  ];
  const both = (a: string, b: string): (readonly [string, string])[] => [
    [a, b],
    [b, a],
  ];
  switch (random.below(4)) {
    case 0: {
      const alone = random.pick(names);
      return names.filter((name) => name !== alone).flatMap((name) => both(alone, name));
    }
    case 1: {
      const side = new Set(names.filter(() => random.chance(0.5)));
      return names.flatMap((a) =>
        names.filter((b) => side.has(a) && !side.has(b)).flatMap((b) => both(a, b)),
      );
    }
    case 2:
      return [[random.pick(names), random.pick(names)]];
    default:
      return Array.from(
        { length: 1 + random.below(4) },
        () => [random.pick(names), random.pick(names)] as const,
      );
  }
}

export function orchestratorNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `o${index + 1}`);
}
