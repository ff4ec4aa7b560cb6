// The failure table: from what is seen to what is done, with reasons in words. The first row that applies to the
// leader decides about the leader; each other node is then looked at by itself. Nothing here acts or waits.

import {
  type Decision,
  type DetectorOptions,
  type DetectorState,
  defaultDetectorOptions,
  type Facts,
  leaderRows,
  type RepairAction,
  type RowName,
} from "./failure-rows.ts";
import {
  changeProblem,
  isFrozen,
  isLost,
  isMember,
  type LeaderFact,
  leaderOf,
  type NodeView,
  type Observation,
  type Observed,
  recruitable,
} from "./observation.ts";
import type { Ruleset } from "./ruleset.ts";
import { formatLsn, noLsn, noTerm, type Term } from "./types.ts";

export interface DetectorStep {
  readonly state: DetectorState;
  /** The first is about the leader; the others are about one node each. */
  readonly decisions: readonly Decision[];
}

export function detect(
  state: DetectorState,
  observation: Observation,
  options: DetectorOptions = defaultDetectorOptions,
): DetectorStep {
  const facts: Facts = { observation, options, leader: leaderOf(observation) };
  const clock = new Since(state, observation.nowMs, facts.leader, options.dampWindowMs);
  const first = aboutLeader(facts, clock);
  const leader = facts.leader;
  const decisions = [first];
  if (leader !== null && first.kind !== "changeLeader" && mayBeFollowed(facts, leader, clock)) {
    decisions.push(...aboutRules(facts, leader, clock));
    for (const observed of observation.nodes.values()) {
      if (observed.id !== leader.id && !observation.busy.has(observed.id)) {
        decisions.push(aboutNode(facts, leader, observed, clock));
      }
    }
  }
  return { state: clock.state(), decisions };
}

function missingBytes(leader: LeaderFact, view: NodeView): bigint {
  const end = leader.view.flushedLsn ?? noLsn;
  const flushed = view.flushedLsn ?? end;
  return end > flushed ? end - flushed : 0n;
}

function establishingSince(leader: LeaderFact, clock: Since): number {
  return clock.of(`leader_establishing ${leader.id} ${leader.term}`);
}

/** It leads; or its term record is on its disk, and whoever told it so seems to be gone before pointing the others at it. */
function mayBeFollowed({ observation, options }: Facts, leader: LeaderFact, clock: Since): boolean {
  if (leader.observed.link !== "connected") {
    return false;
  }
  return (
    leader.standing === "leads" ||
    (leader.view.state === "elected" &&
      observation.nowMs >= establishingSince(leader, clock) + options.attemptMs)
  );
}

/** Remembers since when a situation has lasted; what is no longer the case is forgotten. */
class Since {
  readonly #old: ReadonlyMap<string, number>;
  readonly #kept = new Map<string, number>();
  readonly #nowMs: number;
  readonly #term: Term;
  readonly #changesAtMs: readonly number[];

  constructor(state: DetectorState, nowMs: number, leader: LeaderFact | null, windowMs: number) {
    this.#old = state.since;
    this.#nowMs = nowMs;
    this.#term = leader !== null && leader.term > state.term ? leader.term : state.term;
    const changed = state.term > noTerm && this.#term > state.term;
    this.#changesAtMs = [...state.changesAtMs, ...(changed ? [nowMs] : [])].filter(
      (atMs) => atMs > nowMs - windowMs,
    );
  }

  /** A link that comes and goes must not make a storm of leader changes out of guesses. */
  damping({ dampFree, dampMax }: DetectorOptions): number {
    return Math.min(dampMax, 2 ** Math.max(0, this.#changesAtMs.length - dampFree));
  }

  of(situation: string, startedAtMs?: number): number {
    const since = Math.min(startedAtMs ?? this.#nowMs, this.#old.get(situation) ?? this.#nowMs, this.#nowMs);
    this.#kept.set(situation, since);
    return since;
  }

  state(): DetectorState {
    return { since: this.#kept, term: this.#term, changesAtMs: this.#changesAtMs };
  }
}

function aboutLeader(facts: Facts, clock: Since): Decision {
  const { observation, options, leader } = facts;
  if (observation.rulesets.length === 0) {
    return { kind: "nothing", row: "no_ruleset", reason: "no ruleset is known yet" };
  }
  const underWay = changeUnderWay(facts, clock);
  if (underWay !== null) {
    return underWay;
  }
  if (leader?.standing === "establishing") {
    const since = establishingSince(leader, clock);
    const deadline = since + options.establishMs + observation.rank * options.staggerMs;
    if (observation.nowMs < deadline && leader.observed.link === "connected") {
      const helpAtMs = since + options.attemptMs;
      return {
        kind: "waitUntil",
        row: "leader_establishing",
        atMs: observation.nowMs < helpAtMs ? helpAtMs : deadline,
        reason: `${leader.id} is establishing term ${leader.term}`,
      };
    }
    return change(facts, "leader_establishing", `${leader.id} did not establish term ${leader.term}`);
  }
  let wait: Decision | null = null;
  for (const row of leaderRows) {
    const finding = row.look(facts);
    if (finding === null) {
      continue;
    }
    const since = clock.of(`${row.name} ${leader?.id} ${leader?.term}`, finding.startedAtMs);
    const damping = finding.inferred === true ? clock.damping(options) : 1;
    const atMs = since + finding.holdMs * damping + observation.rank * options.staggerMs;
    if (observation.nowMs >= atMs) {
      return change(facts, row.name, finding.reason);
    }
    if (wait === null || (wait.kind === "waitUntil" && atMs < wait.atMs)) {
      const damped = damping === 1 ? "" : `; ${damping} times the patience: the leader has changed often`;
      wait = { kind: "waitUntil", row: row.name, atMs, reason: `${finding.reason}${damped}` };
    }
  }
  if (wait !== null) {
    return wait;
  }
  return {
    kind: "nothing",
    row: "leader_well",
    reason: leader === null ? "nothing is known" : `${leader.id} leads term ${leader.term}`,
  };
}

/** A promise above every claim to leadership, made just now: leave whoever asked for it a bounded time. */
function changeUnderWay({ observation, options, leader }: Facts, clock: Since): Decision | null {
  let latest: Observed | null = null;
  for (const observed of observation.nodes.values()) {
    if (
      observed.link === "connected" &&
      observed.view !== null &&
      observed.view.promisedTerm > (leader?.term ?? 0) &&
      observed.view.promisedTerm !== observation.endedTerm
    ) {
      latest = latest === null || observed.promiseRoseAtMs > latest.promiseRoseAtMs ? observed : latest;
    }
  }
  if (latest === null) {
    return null;
  }
  let atMs = latest.promiseRoseAtMs + options.attemptMs;
  // A log that is being fetched may be long: as long as it grows, the attempt is alive.
  for (const { id, link, view } of observation.nodes.values()) {
    if (
      link === "connected" &&
      view?.state === "fetching" &&
      view.promisedTerm === latest.view?.promisedTerm
    ) {
      const at = formatLsn(view.flushedLsn ?? noLsn);
      atMs = Math.max(atMs, clock.of(`fetching ${id} ${view.promisedTerm} ${at}`) + options.attemptMs);
    }
  }
  if (observation.nowMs >= atMs) {
    return null;
  }
  const reason = `${latest.id} promised term ${latest.view?.promisedTerm} just now: another coordinator is at work`;
  return { kind: "waitUntil", row: "change_under_way", atMs, reason };
}

function change({ observation, options }: Facts, row: RowName, reason: string): Decision {
  const problem = changeProblem(observation.rulesets, recruitable(observation));
  if (problem !== null) {
    const atMs = observation.nowMs + options.noLeaderHoldMs;
    return { kind: "waitUntil", row: "change_impossible", atMs, reason: `${reason}; but ${problem}` };
  }
  return { kind: "changeLeader", row, reason };
}

/** A change of the cohort under way: named, and taken up when nobody goes on with it. */
function aboutRules({ observation, options }: Facts, leader: LeaderFact, clock: Since): Decision[] {
  const { ruleset, pending } = leader.view;
  if (leader.standing !== "leads" || ruleset === null) {
    return [];
  }
  if (pending) {
    const reason = `ruleset ${pending.version} is in the log of ${leader.id} and not durable yet; ${ruleset.version} is in force`;
    return [{ kind: "nothing", row: "ruleset_pending", reason }];
  }
  if (ruleset.intent === undefined || observation.busy.has(leader.id)) {
    return [];
  }
  const row = "cohort_unfinished";
  const wanted = ruleset.intent.nodes.map(({ id }) => id).join(", ");
  const reason = `ruleset ${ruleset.version} is a step towards policy ${ruleset.intent.policy} on ${wanted}`;
  const since = clock.of(`${row} ${ruleset.version} ${leader.term}`);
  const atMs = since + options.finishHoldMs + observation.rank * options.staggerMs;
  return observation.nowMs >= atMs
    ? [{ kind: "repair", row, node: leader.id, action: "finish", leader: leader.id, member: true, reason }]
    : [{ kind: "waitUntil", row, atMs, reason }];
}

/** A leader knows which rulesets hold; what else was seen may be of a branch that lost. */
function rulesetsOver({ standing, view }: LeaderFact, observation: Observation): readonly Ruleset[] {
  if (standing !== "leads" || view.ruleset === null) return observation.rulesets;
  return view.pending ? [view.ruleset, view.pending] : [view.ruleset];
}

/** While it is pointed at the leader again and again, which may have changed meanwhile. */
const lacksWalHoldMs = 5_000;

/** What it would need next was removed by a leader that serves: nobody can bring it up to date. */
function lacksRemovedLog({ standing, view: { oldestLsn } }: LeaderFact, { flushedLsn }: NodeView): boolean {
  if (standing !== "leads" || oldestLsn === null || oldestLsn === undefined) return false;
  return flushedLsn !== null && flushedLsn !== undefined && flushedLsn > noLsn && flushedLsn < oldestLsn;
}

/** A damage that is none after all shows itself within some more attempts to start. */
const damagedHoldMs = 5_000;

function aboutNode(facts: Facts, leader: LeaderFact, observed: Observed, clock: Since): Decision {
  const { observation } = facts;
  const { id, view } = observed;
  const member = isMember(observation, id);
  const nothing = (row: RowName, reason: string): Decision => ({ kind: "nothing", row, reason });
  const repair = (row: RowName, action: RepairAction, reason: string, holdMs = 0): Decision => {
    const atMs =
      clock.of(`${row} ${id} ${leader.id} ${leader.term}`) +
      holdMs +
      observation.rank * facts.options.staggerMs;
    return observation.nowMs >= atMs
      ? { kind: "repair", row, node: id, action, leader: leader.id, member, reason }
      : { kind: "waitUntil", row, atMs, reason };
  };
  if (view === null || observed.link !== "connected") {
    return nothing("node_out_of_reach", `${id} is out of reach`);
  }
  if (view.operatorStopped) {
    return nothing("operator_stopped", `${id} was stopped by an operator`);
  }
  if (isLost(view, rulesetsOver(leader, observation), id)) {
    const what = view.postgres === "absent" ? "has no data" : "has other data than what counts there";
    return repair("node_lost_data", "replace", `${id} is in the cohort but ${what}`);
  }
  if (view.postgres === "absent") {
    return repair("node_without_data", "create", `${id} has no data`);
  }
  // Only where somebody else serves and stays able to: what is put aside may hold what was acknowledged.
  if (view.damaged === true && leader.standing === "leads") {
    return repair("node_damaged", "discard", `the data of ${id} is damaged`, damagedHoldMs);
  }
  if (view.postgres !== "running") {
    return nothing("node_postgres_down", `Postgres of ${id} is ${view.postgres}`);
  }
  if (isFrozen(view)) {
    return nothing(
      "node_frozen",
      `Postgres of ${id} has not answered its sidecar for ${view.controlAgeMs} ms`,
    );
  }
  if (view.promisedTerm > leader.term) {
    return nothing("dead_promise", `${id} promised term ${view.promisedTerm}`);
  }
  const now = `${leader.id} ${leader.standing === "leads" ? "leads" : "begins"} term ${leader.term}`;
  switch (view.state) {
    case "leader":
    case "elected":
    case "candidate":
      return repair("node_older_leader", "follow", `${id} claims to lead term ${view.term}, but ${now}`);
    case "fenced":
      return repair("node_fenced", "follow", `${id} follows nobody; ${now}`);
    case "follower": {
      if (view.leader !== leader.id || view.term !== leader.term) {
        return repair(
          "node_wrong_leader",
          "follow",
          `${id} follows ${view.leader} in term ${view.term}, but ${now}`,
        );
      }
      if (lacksRemovedLog(leader, view)) {
        const reason = `${id} ends at ${formatLsn(view.flushedLsn ?? noLsn)}, the log of ${leader.id} begins at ${formatLsn(leader.view.oldestLsn ?? noLsn)}`;
        return repair("node_lacks_wal", "remake", reason, lacksWalHoldMs);
      }
      const ageMs = (view.receiver?.lastMessageAgeMs ?? 0) + (observation.nowMs - observed.viewAtMs);
      const streams = view.receiver?.state === "streaming" && ageMs <= facts.options.silentMs;
      if (!streams) {
        const reason = `${id} doesn't stream from ${leader.id}`;
        return repair("node_not_streaming", "follow", reason, facts.options.repairHoldMs);
      }
      const asObserver = leader.view.followers.some((each) => each.node === id && !each.member);
      if (member && asObserver) {
        return repair("node_not_member", "follow", `${id} streams from ${leader.id} only what is committed`);
      }
      const { stuckMs, lagBytes } = facts.options;
      const missing = missingBytes(leader, view);
      if (missing > 0n) {
        // The clock runs as long as this very position is seen while the leader has more.
        const stuck = `${id} stands still at ${formatLsn(view.flushedLsn ?? noLsn)}`;
        const since = clock.of(`node_stuck ${stuck} ${leader.id} ${leader.term}`);
        if (observation.nowMs >= since + stuckMs + observation.rank * facts.options.staggerMs) {
          const reason = `${stuck}, ${missing} bytes behind ${leader.id}`;
          return {
            kind: "repair",
            row: "node_stuck",
            node: id,
            action: "restart",
            leader: leader.id,
            member,
            reason,
          };
        }
      }
      const inForce = leader.view.ruleset;
      if (inForce !== null && view.ruleset !== null && view.ruleset.version < inForce.version) {
        const reason = `${id} has applied ruleset ${view.ruleset.version}, ${inForce.version} is in force`;
        return repair("node_wrong_ruleset", "restart", reason, stuckMs);
      }
      return missing > BigInt(lagBytes)
        ? nothing("node_lagging", `${id} lacks ${missing} bytes of the log of ${leader.id}`)
        : nothing("node_well", `${id} streams from ${leader.id}`);
    }
    case "fetching":
      return repair(
        "node_wrong_leader",
        "follow",
        `${id} still fetches a log in term ${view.term}, but ${now}`,
      );
    case "":
    case "starting":
    case "stopping":
      return nothing("node_well", `${id} is ${view.state || "busy"}`);
    default:
      return view.state satisfies never;
  }
}
