// What a script's actions do to a world: faults, and the wishes of operators.

import {
  term as asTerm,
  builtInPolicies,
  type CohortGoal,
  type CohortNode,
  canFulfil,
  changeProblem,
  compilePolicy,
  goalOfRepair,
  isLost,
  type NodeId,
  type NodeRequest,
  planRulesetChange,
  type Ruleset,
} from "@quorate/consensus";
import type { Checker } from "./checker.ts";
import type { Clock } from "./clock.ts";
import type { Network, NetworkOptions } from "./network.ts";
import type { Machine } from "./node-host.ts";
import type { Orchestrator } from "./orchestrator-host.ts";
import type { EventQueue } from "./queue.ts";
import { policyOf, rulesetOf } from "./rulesets.ts";
import type { Action, WorldPlan } from "./script.ts";

export interface FaultWorld {
  readonly plan: WorldPlan;
  readonly queue: EventQueue;
  readonly network: Network;
  readonly checker: Checker;
  readonly machines: ReadonlyMap<string, Machine>;
  readonly orchestrators: readonly Orchestrator[];
  readonly healed: boolean;
  readonly note: (text: string) => void;
  readonly networkOptions: () => NetworkOptions;
  readonly clock: (name: string) => Clock;
  readonly leader: () => Machine | null;
}

type ActionOf<Kind extends Action["kind"]> = Extract<Action, { readonly kind: Kind }>;

export class Faults {
  readonly #world: FaultWorld;

  constructor(world: FaultWorld) {
    this.#world = world;
  }

  perform(action: Action): void {
    const { machines, orchestrators, queue } = this.#world;
    this.#world.note(`--- ${JSON.stringify(action)}`);
    switch (action.kind) {
      case "killPostgres":
        machines.get(action.node)?.crashPostgres();
        return;
      case "killSidecar":
        this.#killSidecar(action.node, action.downMs);
        return;
      case "killBoth":
        this.#killSidecar(action.node, action.downMs);
        machines.get(action.node)?.crashPostgres();
        return;
      case "powerCut":
        for (const id of action.nodes) {
          const machine = machines.get(id);
          machine?.powerCut();
          queue.after(action.downMs, () => machine?.boot());
        }
        return;
      case "freezePostgres":
        machines.get(action.node)?.freezePostgres(action.ms);
        return;
      case "freezeSidecar":
        machines.get(action.node)?.freezeSidecar(action.ms);
        return;
      case "slowDisk":
        machines.get(action.node)?.slowDisk(action.factor, action.ms);
        return;
      case "loseDisk":
        this.#loseDisk(action);
        return;
      case "clockJump":
        this.#world.clock(action.name).jump(action.ms);
        return;
      case "freezeOrchestrator":
        orchestrators[action.at]?.freeze(action.ms);
        return;
      case "killOrchestrator": {
        const orchestrator = orchestrators[action.at];
        orchestrator?.crash();
        queue.after(action.downMs, () => orchestrator?.start());
        return;
      }
      case "cut":
        this.#cut(action);
        return;
      case "isolateLeader":
        this.#isolateLeader(action);
        return;
      case "slowEdge":
        this.#slowEdge(action);
        return;
      case "slow":
        this.#slow(action);
        return;
      case "switchover":
        orchestrators[action.at]?.desk.switchover(action.to);
        return;
      case "change":
        orchestrators[action.at]?.begin("told to", {
          ...(action.candidate === null ? {} : { candidate: action.candidate }),
          ...(action.lease ? { leaseWaitMs: 100 } : {}),
        });
        return;
      case "cohort":
        this.#cohort(action);
        return;
      case "rules":
        this.#changeRules(action);
        return;
      case "rulesNow":
        this.#rulesNow(action);
        return;
      default:
        action satisfies never;
    }
  }

  #killSidecar(id: NodeId, downMs: number): void {
    const machine = this.#world.machines.get(id);
    machine?.crashSidecar();
    this.#world.queue.after(downMs, () => machine?.startSidecar());
  }

  // ---- the network

  #cut({ pairs, ms }: ActionOf<"cut">): void {
    const { network, queue } = this.#world;
    for (const [from, to] of pairs) {
      network.block(from, to);
    }
    queue.after(ms, () => {
      if (!this.#world.healed) {
        for (const [from, to] of pairs) {
          network.unblock(from, to);
        }
      }
    });
  }

  #isolateLeader({ together, jumpMs, adopted, ms }: ActionOf<"isolateLeader">): void {
    const leader = this.#world.leader()?.id;
    if (leader === undefined) {
      return;
    }
    this.#world.clock(leader).jump(jumpMs);
    const inside: readonly string[] = [leader, ...together];
    const nodes: string[] = this.#world.plan.nodes.map(({ id }) => id);
    const names = [...nodes, ...this.#world.orchestrators.map(({ name }) => name)];
    const pairs = inside.flatMap((a) =>
      names.filter((b) => !inside.includes(b)).flatMap((b) => [[a, b] as const, [b, a] as const]),
    );
    if (adopted) {
      this.#killSidecar(leader, 1);
      this.#world.queue.after(5, () => this.#cut({ kind: "cut", pairs, ms }));
    } else {
      this.#cut({ kind: "cut", pairs, ms });
    }
  }

  #slowEdge({ from, to, extraMs, ms }: ActionOf<"slowEdge">): void {
    this.#world.network.slow(from, to, extraMs);
    this.#world.queue.after(ms, () => this.#world.network.slow(from, to, 0));
  }

  #slow({ delayMs, stallMs, ms }: ActionOf<"slow">): void {
    const { network, queue } = this.#world;
    const before = network.options;
    network.options = { ...before, delayMs, stallMs, stall: Math.max(before.stall, 0.05) };
    queue.after(ms, () => {
      if (!this.#world.healed) {
        network.options = this.#world.networkOptions();
      }
    });
  }

  // ---- disks

  #loseDisk({ node, downMs }: ActionOf<"loseDisk">): void {
    const machine = this.#world.machines.get(node);
    if (machine === undefined || !this.#mayBeLost(machine)) {
      this.#world.note(`the disk of ${node} is spared: without it the cluster could not go on`);
      return;
    }
    machine.loseDisk();
    this.#world.queue.after(downMs, () => machine.boot());
  }

  /** Losing any disk is safe; but this script also wants the cluster to recover without an operator's decision. */
  #mayBeLost(machine: Machine): boolean {
    const rulesets = this.#countingRulesets();
    // What is under way may bring in rules that are in no log yet.
    const underWay =
      this.#world.orchestrators.some(({ desk }) => desk.atWork) ||
      [...this.#world.machines.values()].some(
        ({ postgres, changesRules }) => changesRules || postgres?.leading?.admits === false,
      );
    if (machine.disk === null || rulesets.length === 0 || underWay || this.#someNodeIsLost()) {
      return false;
    }
    const { id } = machine;
    const others = [...this.#world.machines.values()].filter(
      (each) => each !== machine && each.disk !== null && !isLost(each.view(), rulesets, each.id),
    );
    const left = new Set(others.map((each) => each.id));
    const newest = rulesets.at(-1);
    if (newest === undefined || this.#bringsRules() || changeProblem(rulesets, left) !== null) {
      return false;
    }
    for (const ruleset of rulesets) {
      for (const [leader, rule] of ruleset.leaders) {
        if (left.has(leader) && !canFulfil(rule, left)) {
          return false;
        }
      }
    }
    const goal = goalOfRepair(newest, builtInPolicies);
    const nodes = newest.cohort.filter((member) => member.id !== id);
    return (
      !newest.cohort.some((member) => member.id === id) ||
      (goal !== null &&
        newest.intent === undefined &&
        compilePolicy({ policy: goal.policy, nodes, options: goal.options, version: 1 }).ok)
    );
  }

  #bringsRules(): boolean {
    return this.#world.orchestrators.some(({ newRules }) => newRules);
  }

  #someNodeIsLost(): boolean {
    const rulesets = this.#countingRulesets();
    return [...this.#world.machines.values()].some(
      (machine) =>
        isLost(machine.view(), rulesets, machine.id) ||
        // An observer that lost its disk may still look well from afar.
        (machine.lostDisks.length > 0 && machine.postgres?.receiver?.streaming !== true),
    );
  }

  /**
   * Whatever may count after everything has been switched off and on: from the ruleset that the most forgetful disk
   * remembers to have applied.
   */
  #countingRulesets(): Ruleset[] {
    const disks = [...this.#world.machines.values()].flatMap(({ disk }) => (disk === null ? [] : [disk]));
    const remembered = disks.map(({ records, limit }) =>
      records.findLastIndex(({ body, index }) => index < limit && body.kind === "ruleset"),
    );
    const from = Math.min(...remembered);
    const found = new Set<Ruleset>();
    for (const { records } of disks) {
      for (let index = Math.max(from, 0); index < records.length; index += 1) {
        const body = records[index]?.body;
        if (body?.kind === "ruleset") {
          found.add(body.ruleset);
        }
      }
    }
    return [...found].sort((a, b) => a.version - b.version);
  }

  // ---- operators

  /** The nodes of the plan that have data, each as the life that it is now. */
  #membersWithData(): CohortNode[] {
    return this.#world.plan.nodes.flatMap((member) => {
      const machine = this.#world.machines.get(member.id);
      return machine === undefined || machine.disk === null
        ? []
        : [{ ...member, ...(machine.incarnation === null ? {} : { incarnation: machine.incarnation }) }];
    });
  }

  #cohort({ at, policy, members, leave, forMs }: ActionOf<"cohort">): void {
    const orchestrator = this.#world.orchestrators[at];
    const nodes = this.#world.plan.nodes.filter(({ id }) => members.includes(id));
    const others = this.#world.plan.nodes.filter(({ id }) => !members.includes(id)).map(({ id }) => id);
    const chosen = nodes.length === 0 ? null : policyOf(policy, nodes);
    if (chosen === null || orchestrator === undefined || !orchestrator.idle || this.#someNodeIsLost()) {
      return;
    }
    const goal: CohortGoal = {
      ...chosen,
      nodes,
      observers: leave ? [] : others,
      leaving: leave ? others : [],
    };
    orchestrator.desk.pursue(goal, forMs, () => undefined);
  }

  #changeRules({ at, policy, without, byCoordinator }: ActionOf<"rules">): void {
    const orchestrator = this.#world.orchestrators[at];
    // Rules that need a node whose disk has just burnt would block for ever: nobody can help but an operator's force.
    const make = (current: Ruleset): Ruleset | null => {
      if (this.#someNodeIsLost()) {
        return null;
      }
      const members = this.#membersWithData().filter(({ id }) => !without.includes(id));
      return rulesetOf(policy, members, current.version + 1);
    };
    if (byCoordinator) {
      orchestrator?.desk.changeByCoordinator(make);
    } else {
      orchestrator?.desk.changeRuleset(make);
    }
  }

  #rulesNow({ policy, without }: ActionOf<"rulesNow">): void {
    const leader = this.#world.leader();
    const leading = leader?.postgres?.leading;
    const current = leader?.postgres?.view().ruleset;
    if (!leader || !leading || !current || this.#someNodeIsLost()) {
      return;
    }
    const members = this.#membersWithData().filter(({ id }) => !without.includes(id));
    let wanted: Ruleset | null = null;
    for (let more = 0; more < 10 && wanted === null; more += 1) {
      const made = rulesetOf(policy + more, members, current.version + 1);
      wanted = made?.leaders.has(leader.id) === true ? made : null;
    }
    if (wanted === null) {
      return;
    }
    const joined = leader.postgres?.followers.filter((each) => each.member) ?? [];
    const streaming = new Set(joined.map((each) => each.node));
    const term = asTerm(leading.term);
    const plan = planRulesetChange({ leader: leader.id, term, current, pending: null, wanted, streaming });
    if (plan.ok) {
      this.#world.note(`operator asks ${leader.id} for ruleset ${wanted.version}`);
      const { rule, ruleset } = plan;
      const request: NodeRequest = { kind: "changeRuleset", term, rule, ruleset, timeoutMs: 800 };
      leader.request(request, () => undefined);
    }
  }
}
