// Adding, removing, replacing nodes; members and observers; another policy. A goal says what the cluster is to become,
// and the one next step follows from what is seen: whoever comes along can go on with it, and asking for what was
// before is how it is undone. Nothing here remembers anything, so there is no state to lose.

import {
  hearingLeader,
  isLost,
  type LeaderFact,
  leaderOf,
  type NodeView,
  type Observation,
} from "./observation.ts";
import { compilePolicy, type Policy } from "./policy.ts";
import { canFulfil, formatRule } from "./rule.ts";
import {
  allNodes,
  type CohortNode,
  cohortIds,
  formatRuleset,
  type Intent,
  type Json,
  memberOf,
  type Ruleset,
} from "./ruleset.ts";
import { planRulesetChange } from "./ruleset-change.ts";
import { compareIds, type Lsn, type NodeId, noLsn, type Term } from "./types.ts";

export interface CohortGoal {
  readonly policy: Policy;
  readonly options: { readonly [key: string]: Json };
  /** The cohort wanted. The incarnation of each is taken from what the node says. */
  readonly nodes: readonly CohortNode[];
  /** Nodes that are to stream and not to count. */
  readonly observers: readonly NodeId[];
  /** Nodes that are to be stopped once they no longer count. */
  readonly leaving: readonly NodeId[];
}

export interface CohortChangeOptions {
  /** A joining node that lacks no more than this is caught up: the rest comes while the record becomes durable. */
  readonly catchUpBytes: number;
  readonly silentMs: number;
}

export const defaultCohortChangeOptions: CohortChangeOptions = {
  catchUpBytes: 16 * 1024 * 1024,
  silentMs: 2_500,
};

export type CohortStep =
  | { readonly kind: "done"; readonly reason: string }
  /** Nothing to do now; look again when something changes. */
  | { readonly kind: "wait"; readonly reason: string }
  /** The goal can't be reached from here; nothing more is done. */
  | { readonly kind: "refused"; readonly code: CohortRefusalCode; readonly reason: string }
  /** Point the node at the leader, as a member; a node without data is copied first. */
  | {
      readonly kind: "follow";
      readonly node: NodeId;
      readonly leader: NodeId;
      readonly term: Term;
      readonly member: boolean;
      readonly reason: string;
    }
  /** Ask the leader for the ruleset record (leader method). */
  | {
      readonly kind: "changeRuleset";
      readonly leader: NodeId;
      readonly term: Term;
      readonly rule: string;
      readonly ruleset: { readonly version: number; readonly text: string };
      readonly wanted: Ruleset;
      readonly reason: string;
    }
  /** A planned leader change; whoever leads now may not lead under what comes next. */
  | { readonly kind: "changeLeader"; readonly from: NodeId; readonly to: NodeId; readonly reason: string }
  | { readonly kind: "stop"; readonly node: NodeId; readonly reason: string };

export type CohortRefusalCode = "policy" | "overlap" | "no_successor" | "ruleset" | "replaced_node_needed";

/** The goal that a ruleset on its way names, or null when it leads nowhere. `policies`: the built-in ones and the user's. */
export function goalOfIntent(ruleset: Ruleset, policies: readonly Policy[]): CohortGoal | null {
  const { intent } = ruleset;
  const policy = policies.find((each) => each.name === intent?.policy);
  return intent === undefined || policy === undefined
    ? null
    : { policy, options: intent.options, nodes: intent.nodes, observers: [], leaving: [] };
}

/** The goal of leaving everything as it is: a lost node is let go, copied anew, and joins again. */
export function goalOfRepair(ruleset: Ruleset, policies: readonly Policy[]): CohortGoal | null {
  const policy = policies.find((each) => each.name === ruleset.name);
  return (
    goalOfIntent(ruleset, policies) ??
    (policy === undefined
      ? null
      : { policy, options: ruleset.options ?? {}, nodes: ruleset.cohort, observers: [], leaving: [] })
  );
}

interface Situation {
  readonly goal: CohortGoal;
  readonly observation: Observation;
  readonly options: CohortChangeOptions;
  readonly leader: LeaderFact;
  readonly current: Ruleset;
  readonly term: Term;
}

function wait(reason: string): CohortStep {
  return { kind: "wait", reason };
}

export function refused(code: CohortRefusalCode, reason: string): CohortStep {
  return { kind: "refused", code, reason };
}

export function nextCohortStep(
  goal: CohortGoal,
  observation: Observation,
  options: CohortChangeOptions = defaultCohortChangeOptions,
): CohortStep {
  const wanted = new Set(goal.nodes.map(({ id }) => id));
  const twice = [...goal.observers, ...goal.leaving].filter((id) => wanted.has(id));
  if (twice.length > 0) {
    return refused("overlap", `${twice.join(", ")} can't be in the cohort and out of it`);
  }
  const leader = leaderOf(observation);
  if (leader === null || leader.standing !== "leads" || leader.observed.link !== "connected") {
    return wait("no node leads: a leader must write the ruleset");
  }
  const current = leader.view.ruleset;
  if (current === null) {
    return wait(`${leader.id} has no ruleset yet`);
  }
  const situation: Situation = { goal, observation, options, leader, current, term: leader.term };
  if (leader.view.pending) {
    return finishPending(situation, leader.view.pending);
  }
  return towardsRules(situation) ?? afterRules(situation);
}

/** A record that whoever wrote it left behind: it becomes durable as soon as the nodes that it names stream. */
function finishPending(situation: Situation, pending: Ruleset): CohortStep {
  const { current, leader } = situation;
  for (const id of allNodes([current, pending])) {
    const step = id === leader.id ? null : toBeFollowing(situation, id, true);
    if (step?.kind === "follow") {
      return step;
    }
  }
  return wait(
    `ruleset ${pending.version} is not durable yet under ${current.version} and ${pending.version}`,
  );
}

function viewOf({ observation }: Situation, id: NodeId): NodeView | null {
  const observed = observation.nodes.get(id);
  return observed?.link === "connected" ? observed.view : null;
}

/** Null when the node streams from the leader, as a member if it is to be one. */
function toBeFollowing(situation: Situation, id: NodeId, member: boolean): CohortStep | null {
  const { leader, observation, options, term } = situation;
  const view = viewOf(situation, id);
  if (view === null) {
    return wait(`${id} is out of reach`);
  }
  if (view.operatorStopped) {
    return wait(`${id} was stopped by an operator`);
  }
  if (view.postgres !== "absent" && view.postgres !== "running") {
    return wait(`Postgres of ${id} is ${view.postgres}`);
  }
  if (view.promisedTerm > term) {
    return wait(`${id} has promised term ${view.promisedTerm}`);
  }
  const streams = view.postgres === "running" && hearingLeader(observation, leader, options.silentMs).has(id);
  const asMember = leader.view.followers.some((each) => each.node === id && each.member);
  if (streams && (asMember || !member)) {
    return null;
  }
  if (observation.busy.has(id)) {
    return wait(`${id} is being pointed at ${leader.id}`);
  }
  const reason =
    view.postgres === "absent"
      ? `${id} has no data: copy ${leader.id}`
      : `${id} is to stream from ${leader.id}${member ? " as a member" : ""}`;
  return { kind: "follow", node: id, leader: leader.id, term, member, reason };
}

function missingBytes({ leader }: Situation, id: NodeId): Lsn | null {
  const end = leader.view.flushedLsn;
  const flushed = leader.view.followers.find((each) => each.node === id)?.flushedLsn;
  if (end === undefined || end === null || flushed === undefined || flushed === null) {
    return null;
  }
  return end > flushed ? ((end - flushed) as Lsn) : noLsn;
}

/** Null when the rules in force are those of the goal. */
function towardsRules(situation: Situation): CohortStep | null {
  const { goal, current, leader } = situation;
  const lost = new Set(goal.nodes.map(({ id }) => id).filter((id) => hasLostData(situation, id)));
  const unnamed = [...lost].filter((id) => memberOf(current, id)?.incarnation === undefined);
  const nodes = goal.nodes.map((member) => {
    const said = viewOf(situation, member.id)?.incarnation;
    return withLife(member, lost.has(member.id) ? null : current, said);
  });
  if (unnamed.length > 0) {
    return withoutLost(situation, nodes, new Set(unnamed));
  }
  for (const { id } of nodes) {
    if (id === leader.id || (memberOf(current, id) !== undefined && !lost.has(id))) {
      continue;
    }
    // A replaced node streams, but counts only when the ruleset that names its new life is in force.
    const step = toBeFollowing(situation, id, !lost.has(id));
    if (step !== null) {
      return step;
    }
    const missing = missingBytes(situation, id);
    if (missing !== null && missing > BigInt(situation.options.catchUpBytes)) {
      return wait(`${id} lacks ${missing} bytes of the log of ${leader.id}`);
    }
  }
  const step = towards(situation, nodes, null, "the nodes that join stream from the leader");
  return step?.kind === "refused" && step.code === "replaced_node_needed"
    ? withoutLost(situation, nodes, lost)
    : step;
}

function hasLostData(situation: Situation, id: NodeId): boolean {
  const view = viewOf(situation, id);
  return view !== null && isLost(view, [situation.current], id);
}

/**
 * Where lives are not told apart, or where the record could not become durable without the lost node: first out of the
 * cohort, so that neither its old reports nor its new acknowledgements count; then copied; then in again.
 */
function withoutLost(
  situation: Situation,
  nodes: readonly CohortNode[],
  lost: ReadonlySet<NodeId>,
): CohortStep | null {
  const rest = nodes.filter(({ id }) => !lost.has(id) && memberOf(situation.current, id) !== undefined);
  const names = [...lost].sort(compareIds).join(", ");
  return towards(
    situation,
    rest,
    nodes,
    `${names} lost its data and must leave the cohort before it is copied`,
  );
}

/** A node of the cohort stays the life that the cohort names; any other is the one that it says itself. */
export function withLife(
  member: CohortNode,
  current: Ruleset | null,
  said: string | null | undefined,
): CohortNode {
  const { incarnation: _, ...plain } = member;
  const named = current === null ? undefined : memberOf(current, member.id)?.incarnation;
  const incarnation = named ?? said ?? undefined;
  return incarnation === undefined ? plain : { ...plain, incarnation };
}

function sameRules(a: Ruleset, b: Ruleset): boolean {
  const { intent: _a, ...left } = a;
  const { intent: _b, ...right } = b;
  return (
    formatRuleset({ ...left, version: 1 }) === formatRuleset({ ...right, version: 1 }) && sameIntent(a, b)
  );
}

function sameIntent(a: Ruleset, b: Ruleset): boolean {
  const text = (intent: Intent | undefined): string => JSON.stringify(intent ?? null);
  return text(a.intent) === text(b.intent);
}

/** On the way, nodes are missing of which option "ineligible" speaks. */
function optionsFor(options: CohortGoal["options"], nodes: readonly CohortNode[]): CohortGoal["options"] {
  const { ineligible } = options;
  if (!Array.isArray(ineligible)) {
    return options;
  }
  const named = (ineligible as readonly Json[]).filter((each) => nodes.some(({ id }) => id === each));
  return { ...options, ineligible: named };
}

/** The step from the rules in force to those of these nodes; null when they are in force. */
function towards(
  situation: Situation,
  nodes: readonly CohortNode[],
  intended: readonly CohortNode[] | null,
  reason: string,
): CohortStep | null {
  const { goal, current, leader } = situation;
  const version = current.version + 1;
  const options = optionsFor(goal.options, nodes);
  const compiled = compilePolicy({ policy: goal.policy, nodes, options, version });
  if (!compiled.ok) {
    const why = compiled.refusals.map(({ message }) => message).join("; ");
    return refused(
      "policy",
      `policy ${goal.policy.name} doesn't fit ${nodes.map(({ id }) => id).join(", ")}: ${why}`,
    );
  }
  if (intended !== null) {
    const whole = compilePolicy({ policy: goal.policy, nodes: intended, options: goal.options, version });
    if (!whole.ok) {
      return refused("policy", whole.refusals.map(({ message }) => message).join("; "));
    }
  }
  const intent: Intent = { policy: goal.policy.name, options: goal.options, nodes: intended ?? nodes };
  const target = intended === null ? compiled.ruleset : { ...compiled.ruleset, intent };
  if (sameRules(current, target)) {
    return null;
  }
  if (!target.leaders.has(leader.id)) {
    return beforeLeaderGoes(situation, target, intent);
  }
  const hearing = members(situation).add(leader.id);
  for (const ruleset of [current, target]) {
    const rule = ruleset.leaders.get(leader.id);
    if (rule !== undefined && !canFulfil(rule, hearing)) {
      return wait(
        `too few of ${formatRule(rule)} stream from ${leader.id}: the record could not become durable`,
      );
    }
  }
  return writeRuleset(situation, target, reason);
}

/** Who streams from the leader as a member. */
function members({ leader }: Situation): Set<NodeId> {
  return new Set(leader.view.followers.filter((each) => each.member).map((each) => each.node));
}

function writeRuleset(situation: Situation, wanted: Ruleset, reason: string): CohortStep {
  const { current, leader, term } = situation;
  const streaming = members(situation);
  const plan = planRulesetChange({ leader: leader.id, term, current, pending: null, wanted, streaming });
  if (plan.ok) {
    const { rule, ruleset } = plan;
    return {
      kind: "changeRuleset",
      leader: leader.id,
      term,
      rule,
      ruleset,
      wanted,
      reason: `ruleset ${wanted.version}: ${reason}`,
    };
  }
  return plan.code === "node_not_ready"
    ? wait(plan.message)
    : refused(plan.code === "replaced_node_needed" ? plan.code : "ruleset", plan.message);
}

/** The leader may not lead under the target: somebody must lead who may under both, if need be by way of a bridge. */
function beforeLeaderGoes(situation: Situation, target: Ruleset, intent: Intent): CohortStep {
  const { current, leader } = situation;
  const both = [...target.leaders.keys()].filter((id) => current.leaders.has(id)).sort(compareIds);
  const ready = both.filter((id) => toBeFollowing(situation, id, true) === null);
  const [to] = ready;
  if (to !== undefined) {
    return {
      kind: "changeLeader",
      from: leader.id,
      to,
      reason: `${leader.id} may not lead under what comes next`,
    };
  }
  if (both.length > 0) {
    return wait(`${both.join(", ")} could lead next, and must stream from ${leader.id} first`);
  }
  const bridge: Ruleset = { ...bridgeRuleset(current, target), intent };
  if (sameRules({ ...bridge, version: 1 }, { ...current, version: 1 })) {
    return refused(
      "no_successor",
      `no node may lead under ruleset ${current.version} and under the one wanted`,
    );
  }
  return writeRuleset(situation, bridge, "a bridge, so that somebody may lead before and after");
}

/** Both cohorts, and each leader of either under its own rule: valid on its own, and a step from one to the other. */
export function bridgeRuleset(current: Ruleset, target: Ruleset): Ruleset {
  const cohort = new Map(target.cohort.map((member) => [member.id, member]));
  for (const member of current.cohort) {
    cohort.set(member.id, member);
  }
  return {
    version: current.version + 1,
    name: "bridge",
    cohort: [...cohort.values()].sort((a, b) => compareIds(a.id, b.id)),
    leaders: new Map([...target.leaders, ...current.leaders]),
  };
}

function afterRules(situation: Situation): CohortStep {
  const { goal, current } = situation;
  for (const id of goal.observers) {
    const step = toBeFollowing(situation, id, false);
    if (step !== null) {
      return step;
    }
  }
  for (const id of goal.leaving) {
    const view = viewOf(situation, id);
    if (view !== null && !view.operatorStopped && view.postgres !== "stopped" && view.postgres !== "absent") {
      return { kind: "stop", node: id, reason: `${id} has left the cohort` };
    }
  }
  return {
    kind: "done",
    reason: `ruleset ${current.version} is in force on ${cohortIds(current).join(", ")}`,
  };
}
