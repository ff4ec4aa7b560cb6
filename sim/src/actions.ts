// What faults and operators do in a script, at random.

import type { CohortNode } from "@quorate/consensus";
import type { Random } from "./random.ts";
import { type Action, orchestratorNames, type Step, type WorldPlan } from "./script.ts";
import { maxDrift } from "./sim-options.ts";

/** Drifting clocks, and leases that trust them within the bound. */
export function clocksOf(
  random: Random,
  nodes: readonly CohortNode[],
  orchestrators: number,
  leases: readonly number[],
): Pick<WorldPlan, "clockRates" | "heartbeatMs" | "leaseMs"> {
  const drift = random.pick([0, 0, 0.01, maxDrift]);
  const names: string[] = [...nodes.map(({ id }) => id), ...orchestratorNames(orchestrators)];
  const rates = names.map((name) => [name, 1 + random.between(-drift, drift)] as const);
  const leaseMs = leases.length > 0 && random.chance(0.5) ? random.pick(leases) : 0;
  return {
    clockRates: drift === 0 ? {} : Object.fromEntries(rates),
    leaseMs,
    heartbeatMs: leaseMs === 0 ? 150 : leaseMs / 4,
  };
}

/** Things that are most dangerous right after something else: a cut after a rules change, a race of coordinators. */
export function companions(
  random: Random,
  world: Omit<WorldPlan, "steps">,
  action: Action,
  atMs: number,
): Step[] {
  const soon = (): number => atMs + random.between(0, random.pick([3, 10, 40]));
  const change = (at: number): Action => ({ kind: "change", at, candidate: null, lease: false });
  switch (action.kind) {
    case "rules":
    case "cohort":
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
    case "clockJump": {
      // Alone with a clock that was set back, it may think that it still leads.
      const names = [...world.nodes.map(({ id }) => id as string), ...orchestratorNames(world.orchestrators)];
      const pairs = names
        .filter((name) => name !== action.name)
        .flatMap((name) => [[name, action.name] as const, [action.name, name] as const]);
      return [
        { atMs: atMs + 1, action: { kind: "cut", pairs, ms: random.between(300, 1_200) } },
        ...Array.from({ length: world.orchestrators }, (_, at) => ({ atMs: soon(), action: change(at) })),
      ];
    }
    case "powerCut":
    case "killPostgres":
    case "loseDisk":
      return world.automatic ? [] : [{ atMs: soon(), action: change(random.below(world.orchestrators)) }];
    default:
      return [];
  }
}

export function actionOf(random: Random, world: Omit<WorldPlan, "steps">, rulesOften: boolean): Action {
  const ids = world.nodes.map((member) => member.id);
  const one = random.pick(ids);
  const at = random.below(world.orchestrators);
  const downMs = random.between(20, 1_200);
  const kind = rulesOften && random.chance(0.4) ? 18 : random.below(world.automatic ? 30 : 38);
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
    case 20:
      return { kind: "slowDisk", node: one, factor: random.pick([3, 20, 100]), ms: downMs };
    case 21:
    case 22:
      return { kind: "loseDisk", node: one, downMs };
    case 23:
      return {
        kind: "clockJump",
        name: random.chance(0.7) ? one : (`o${at + 1}` as const),
        ms: random.pick([-1, 1]) * random.between(50, 5_000),
      };
    case 24:
    case 25:
    case 26:
      return {
        kind: "cohort",
        at,
        policy: random.below(16),
        members: ids.filter(() => random.chance(0.75)),
        leave: random.chance(0.4),
        forMs: random.between(200, 2_500),
      };
    case 27: {
      const names: string[] = [...ids, ...orchestratorNames(world.orchestrators)];
      const extraMs = random.between(20, 700);
      return { kind: "slowEdge", from: random.pick(names), to: random.pick(names), extraMs, ms: downMs };
    }
    default:
      return { kind: "change", at, candidate: random.chance(0.5) ? one : null, lease: random.chance(0.1) };
  }
}

export function pairsOf(random: Random, world: Omit<WorldPlan, "steps">): (readonly [string, string])[] {
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
