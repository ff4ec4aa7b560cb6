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
    };

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

export function singleRuleset(members: readonly CohortNode[]): Ruleset {
  const rule = atLeast(
    1,
    members.slice(0, 1).map((member) => node(member.id)),
  );
  const [first] = members;
  return {
    version: 1,
    name: "single",
    cohort: members,
    leaders: first === undefined ? new Map() : new Map([[first.id, rule]]),
  };
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
  let policy = random.below(7) + 8 * random.below(2);
  while (rulesetOf(policy, nodes.slice(0, founders.length), 1) === null) {
    policy += 1;
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
