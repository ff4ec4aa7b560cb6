// What a ruleset means for an operator: which failures it survives for writes and for a leader change, and the
// smallest sets of nodes whose loss stops each. Sizes up to a bound are searched completely.

import { changeProblem } from "./observation.ts";
import { canFulfil, formatRule, type Rule, ruleNodes } from "./rule.ts";
import { cohortIds, eligibleLeaders, type Ruleset } from "./ruleset.ts";
import { compareIds, type NodeId } from "./types.ts";

export interface Tolerance {
  /** Any so many nodes may be lost. */
  readonly any: number;
  /** False: perhaps more; the sets were too many to look at all. */
  readonly exact: boolean;
  /** The smallest sets whose loss is too much; empty when none was found within the bound. */
  readonly smallest: readonly (readonly NodeId[])[];
}

export interface LeaderExplanation {
  readonly leader: NodeId;
  readonly rule: string;
  /** How many nodes hold every acknowledged transaction at least, the leader included. */
  readonly copies: number;
  /** Other nodes that may be lost while this leader goes on writing. */
  readonly writes: Tolerance;
}

export interface ZoneExplanation {
  readonly zone: string;
  readonly nodes: readonly NodeId[];
  /** Leaders outside of the zone that go on writing without it. */
  readonly writers: readonly NodeId[];
  /** Without the zone, can a leader be changed or appointed? Null when yes; else why not. */
  readonly failoverProblem: string | null;
}

export interface RulesetExplanation {
  readonly ruleset: Ruleset;
  readonly leaders: readonly LeaderExplanation[];
  /** Nodes, the old leader among them, that may be lost while a new leader can still be appointed. */
  readonly failover: Tolerance;
  readonly zones: readonly ZoneExplanation[];
  readonly warnings: readonly string[];
}

const maxSets = 20_000;
const maxShown = 12;

/** Sets of growing size; ends after the first size that has a hit, or at the bound. */
function tolerance(ids: readonly NodeId[], stops: (lost: ReadonlySet<NodeId>) => boolean): Tolerance {
  let looked = 0;
  for (let size = 1; size <= ids.length; size += 1) {
    const smallest: NodeId[][] = [];
    const choose = (from: number, chosen: NodeId[]): boolean => {
      if (chosen.length === size) {
        looked += 1;
        if (stops(new Set(chosen))) {
          smallest.push(chosen);
        }
        return looked <= maxSets;
      }
      for (let at = from; at <= ids.length - (size - chosen.length); at += 1) {
        const id = ids[at];
        if (id !== undefined && !choose(at + 1, [...chosen, id])) {
          return false;
        }
      }
      return true;
    };
    const complete = choose(0, []);
    if (smallest.length > 0) {
      return { any: size - 1, exact: true, smallest: smallest.slice(0, maxShown) };
    }
    if (!complete) {
      return { any: size - 1, exact: false, smallest: [] };
    }
  }
  return { any: ids.length, exact: true, smallest: [] };
}

function without(ids: readonly NodeId[], lost: ReadonlySet<NodeId>): Set<NodeId> {
  return new Set(ids.filter((id) => !lost.has(id)));
}

/** Whether every node is named once: then costs of subtrees just add up. */
function namesOnce(rule: Rule): boolean {
  const leaves = (each: Rule): number =>
    each.kind === "node" ? 1 : each.rules.reduce((sum, child) => sum + leaves(child), 0);
  return leaves(rule) === ruleNodes(rule).length;
}

/** The least number of nodes that fulfil the rule (or, with `block`, that stop it) when each node costs so much. */
function cheapest(rule: Rule, cost: (id: NodeId) => number, block: boolean): number {
  if (rule.kind === "node") {
    return cost(rule.id);
  }
  const costs = rule.rules.map((child) => cheapest(child, cost, block)).sort((a, b) => a - b);
  const needed = block ? costs.length - rule.k + 1 : rule.k;
  return costs.slice(0, needed).reduce((sum, each) => sum + each, 0);
}

/** The smallest number of nodes that hold what is durable under the leader, which holds everything itself. */
function copiesOf(ids: readonly NodeId[], leader: NodeId, rule: Rule): number {
  if (namesOnce(rule)) {
    return 1 + cheapest(rule, (id) => (id === leader ? 0 : 1), false);
  }
  if (canFulfil(rule, new Set([leader]))) {
    return 1;
  }
  const others = ids.filter((id) => id !== leader);
  return tolerance(others, (chosen) => canFulfil(rule, new Set(chosen).add(leader))).any + 2;
}

/** Other nodes that may be lost while this leader writes. */
function writesOf(ids: readonly NodeId[], leader: NodeId, rule: Rule): Tolerance {
  const others = ids.filter((id) => id !== leader);
  const found = tolerance(others, (lost) => !canFulfil(rule, without(ids, lost)));
  if (found.exact || !namesOnce(rule)) {
    return found;
  }
  const any = cheapest(rule, (id) => (id === leader ? Number.POSITIVE_INFINITY : 1), true) - 1;
  return { any: Math.min(any, others.length), exact: true, smallest: [] };
}

export function explainRuleset(ruleset: Ruleset): RulesetExplanation {
  const ids = cohortIds(ruleset).sort(compareIds);
  const leaders = eligibleLeaders(ruleset).flatMap((leader) => {
    const rule = ruleset.leaders.get(leader);
    if (rule === undefined) {
      return [];
    }
    const copies = copiesOf(ids, leader, rule);
    return [{ leader, rule: formatRule(rule), copies, writes: writesOf(ids, leader, rule) }];
  });
  const failover = tolerance(ids, (lost) => changeProblem([ruleset], without(ids, lost)) !== null);
  const zoneNames = [...new Set(ruleset.cohort.map((member) => member.zone))].sort(compareIds);
  const zones = zoneNames.map((zone) => explainZone(ruleset, ids, zone));
  return { ruleset, leaders, failover, zones, warnings: warningsFor(ruleset, leaders, failover, zones) };
}

function explainZone(ruleset: Ruleset, ids: readonly NodeId[], zone: string): ZoneExplanation {
  const nodes = ruleset.cohort.filter((member) => member.zone === zone).map((member) => member.id);
  const left = without(ids, new Set(nodes));
  const writers = eligibleLeaders(ruleset).filter((leader) => {
    const rule = ruleset.leaders.get(leader);
    return left.has(leader) && rule !== undefined && canFulfil(rule, left);
  });
  return { zone, nodes, writers, failoverProblem: changeProblem([ruleset], left) };
}

function warningsFor(
  ruleset: Ruleset,
  leaders: readonly LeaderExplanation[],
  failover: Tolerance,
  zones: readonly ZoneExplanation[],
): string[] {
  const warnings: string[] = [];
  for (const { leader, copies } of leaders) {
    if (copies === 1 && ruleset.cohort.length > 1) {
      warnings.push(
        `not durable: under ${leader} a transaction may be acknowledged that only ${leader} holds`,
      );
    }
  }
  for (const { zone, failoverProblem } of zones) {
    if (zones.length > 1 && failoverProblem !== null) {
      warnings.push(`durable, but not discoverable if zone ${zone} is cut off: ${failoverProblem}`);
    }
  }
  if (failover.any === 0 && ruleset.cohort.length > 1) {
    const single = failover.smallest.map((set) => set.join(", ")).join("; ");
    warnings.push(`the loss of one node stops every leader change: ${single}`);
  }
  if (leaders.length === 1 && ruleset.cohort.length > 1) {
    warnings.push(`only ${leaders[0]?.leader} may lead: when it is lost, nobody can`);
  }
  return warnings;
}

function formatTolerance({ any, exact, smallest }: Tolerance): string {
  const enough =
    any === 0
      ? "the loss of no node"
      : `the loss of any ${any} node${any === 1 ? "" : "s"}${exact ? "" : ", perhaps more"}`;
  const sets = smallest.map((set) => `{${set.join(", ")}}`).join(" ");
  return sets === "" ? enough : `${enough}; too much: ${sets}`;
}

/** `quorate policy explain`: lines of plain text. */
export function formatExplanation(explanation: RulesetExplanation): string[] {
  const { ruleset, leaders, failover, zones, warnings } = explanation;
  const lines = [`policy ${ruleset.name}, ${ruleset.cohort.length} nodes: ${cohortIds(ruleset).join(", ")}`];
  for (const { leader, rule, copies, writes } of leaders) {
    lines.push(
      `${leader} as leader: durable when ${rule} have it, on at least ${copies} node${copies === 1 ? "" : "s"}`,
    );
    lines.push(`  writes go on after ${formatTolerance(writes)}`);
  }
  lines.push(`a leader can be appointed after ${formatTolerance(failover)}`);
  for (const { zone, writers, failoverProblem } of zones) {
    const write = writers.length === 0 ? "nobody could write" : `${writers.join(", ")} could write`;
    const change =
      failoverProblem === null
        ? "a leader can be appointed"
        : `no leader can be appointed (${failoverProblem})`;
    lines.push(`without zone ${zone}: ${write}; ${change}`);
  }
  return [...lines, ...warnings.map((warning) => `WARNING ${warning}`)];
}
