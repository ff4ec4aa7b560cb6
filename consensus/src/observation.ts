// What an orchestrator sees of the nodes, and the facts that follow from it. Ages and times are data.

import type { ExtensionState, Follower, PostgresState, Receiver } from "./node-status.ts";
import { canBlock, canFulfil, type NodeSet, type Rule } from "./rule.ts";
import { cohortIds, countsUnder, distinctRulesets, memberOf, type Ruleset } from "./ruleset.ts";
import { compareIds, type Lsn, type NodeId, noTerm, type Term, term } from "./types.ts";

/** The parts of NodeStatus (proto/quorate.proto) that decisions depend on. */
export interface NodeView {
  readonly postgres: PostgresState;
  readonly state: ExtensionState;
  readonly term: Term;
  readonly promisedTerm: Term;
  readonly inRecovery: boolean;
  /** Whom it follows; itself when it leads. */
  readonly leader: NodeId | null;
  readonly receiver: Receiver | null;
  readonly followers: readonly Follower[];
  readonly ruleset: Ruleset | null;
  /** On a leader: a ruleset whose record is in the log and not durable under the old and the new rules yet. */
  readonly pending?: Ruleset | null;
  /** Which life of the node this is; a cohort entry of another one doesn't mean it. */
  readonly incarnation?: string | null;
  /** For how long a small write to the node's disk has been waiting; 0 or absent: none is. */
  readonly diskStuckMs?: number;
  /** Age of the last word of Postgres to its sidecar; null or absent: not known. */
  readonly controlAgeMs?: number | null;
  /** End of the log on this node's disk. */
  readonly flushedLsn?: Lsn | null;
  /** On a leader: where the log that it still has begins. */
  readonly oldestLsn?: Lsn | null;
  /** Led `term` until its Postgres stopped or crashed. */
  readonly wasLeader: boolean;
  readonly operatorStopped: boolean;
  /** Its Postgres fails at every start, and says that its data is the reason. */
  readonly damaged?: boolean;
}

/** The orchestrator's connection to the sidecar. `reset`: broken by the other side; `silent`: open, but nothing arrives. */
export type Link = "connected" | "reset" | "silent" | "unknown";

export interface Observed {
  readonly id: NodeId;
  readonly link: Link;
  readonly linkSinceMs: number;
  /** The last status; may be old when the link is not connected. */
  readonly view: NodeView | null;
  readonly viewAtMs: number;
  /** When this node's promised term was last seen to rise. */
  readonly promiseRoseAtMs: number;
}

export interface Observation {
  readonly nowMs: number;
  readonly nodes: ReadonlyMap<NodeId, Observed>;
  /** The rulesets that this orchestrator believes to be in force, oldest first; usually one. */
  readonly rulesets: readonly Ruleset[];
  /** 0 acts first; each further orchestrator waits a little longer. */
  readonly rank: number;
  /** The term of this orchestrator's own last attempt that came to nothing: promises to it are nobody's work. */
  readonly endedTerm?: Term;
  /** Nodes that a repair of this orchestrator is working on. */
  readonly busy: NodeSet;
}

/** The newest claim to leadership, alive or dead. */
export interface LeaderFact {
  readonly id: NodeId;
  readonly term: Term;
  readonly observed: Observed;
  readonly view: NodeView;
  readonly standing: "leads" | "establishing" | "gone";
}

const claimingStates: ReadonlySet<ExtensionState> = new Set(["leader", "elected", "candidate"]);

export function leaderOf(observation: Observation): LeaderFact | null {
  let best: LeaderFact | null = null;
  for (const observed of observation.nodes.values()) {
    const { view } = observed;
    if (view === null) {
      continue;
    }
    const runs = claimingStates.has(view.state);
    if (!runs && !view.wasLeader) {
      continue;
    }
    if (
      best === null ||
      view.term > best.term ||
      (view.term === best.term && runs && best.standing === "gone")
    ) {
      const standing = !runs ? "gone" : view.state === "leader" ? "leads" : "establishing";
      best = { id: observed.id, term: view.term, observed, view, standing };
    }
  }
  return best;
}

/** What a coordinator may know of the newest claim to leadership when it begins. */
export interface LeaderClaim {
  readonly node: NodeId;
  readonly term: Term;
  /**
   * Its sidecar says that the Postgres that led this term has ended, or the extension itself that it does not lead any
   * more: so has whatever lease it held.
   */
  readonly ended?: boolean;
}

const noPostgres: ReadonlySet<PostgresState> = new Set(["absent", "stopped", "crashed", "failed"]);
const notLeading: ReadonlySet<ExtensionState> = new Set(["starting", "fenced", "follower", "fetching"]);

/**
 * A Postgres that stops still answers whoever is connected. One of which the sidecar knows only that it is there was
 * adopted, or its control connection was lost: it may lead as before.
 */
function hasEnded({ observed, standing, view }: LeaderFact): boolean {
  return (
    standing === "gone" &&
    observed.link === "connected" &&
    (noPostgres.has(view.postgres) || notLeading.has(view.state))
  );
}

export function claimOf(observation: Observation): LeaderClaim | null {
  const leader = leaderOf(observation);
  return leader === null ? null : { node: leader.id, term: leader.term, ended: hasEnded(leader) };
}

/** A cohort node without data, or with data of a later life than the ruleset counts: it forgot what it acknowledged. */
export function isLost(view: NodeView, rulesets: readonly Ruleset[], id: NodeId): boolean {
  const counting = rulesets.filter((ruleset) => memberOf(ruleset, id) !== undefined);
  if (counting.length === 0) {
    return false;
  }
  return (
    view.postgres === "absent" ||
    (view.incarnation !== undefined &&
      counting.some((ruleset) => !countsUnder(ruleset, id, view.incarnation)))
  );
}

/** A write that waits for so long is taken for one that never ends: no promise can be made there. */
export const diskHangsAfterMs = 2_000;

export function diskHangs(view: NodeView): boolean {
  return (view.diskStuckMs ?? 0) > diskHangsAfterMs;
}

/** Postgres speaks to its sidecar four times a second: one that is silent for so long is stopped or stuck. */
export const frozenAfterMs = 1_000;

export function isFrozen(view: NodeView): boolean {
  return view.postgres === "running" && (view.controlAgeMs ?? 0) > frozenAfterMs;
}

/** Connected, with a Postgres that answers on its control socket and a disk that takes promises. */
export function canBeRecruited(observed: Observed | undefined): boolean {
  return (
    observed?.link === "connected" &&
    observed.view !== null &&
    !diskHangs(observed.view) &&
    !isFrozen(observed.view) &&
    (observed.view.postgres === "running" || observed.view.postgres === "starting")
  );
}

export function recruitable(observation: Observation): Set<NodeId> {
  return new Set([...observation.nodes.values()].filter(canBeRecruited).map((observed) => observed.id));
}

/** Which leaders could go on, and whether anybody could lead, if exactly these nodes were recruited. */
export function changeProblem(rulesets: readonly Ruleset[], nodes: ReadonlySet<NodeId>): string | null {
  if (rulesets.length === 0) {
    return "no ruleset is known";
  }
  for (const ruleset of rulesets) {
    for (const [leader, rule] of ruleset.leaders) {
      if (!nodes.has(leader) && !canBlock(rule, nodes)) {
        const missing = cohortIds(ruleset).filter((id) => !nodes.has(id));
        return `${leader} could still lead (ruleset ${ruleset.version}); out of reach: ${missing.join(", ")}`;
      }
    }
  }
  const first = rulesets[0];
  const candidates = [...(first?.leaders.keys() ?? [])].filter((id) => nodes.has(id));
  const able = candidates.some((id) =>
    rulesets.every((ruleset) => {
      const rule = ruleset.leaders.get(id);
      return rule !== undefined && canFulfil(rule, nodes);
    }),
  );
  return able
    ? null
    : `no reachable node finds a quorum among ${[...nodes].sort(compareIds).join(", ") || "nobody"}`;
}

/** Followers in reach that say they stream from this leader in its term, and the leader itself. */
export function hearingLeader(observation: Observation, leader: LeaderFact, silentMs: number): Set<NodeId> {
  const hearing = new Set<NodeId>();
  for (const observed of observation.nodes.values()) {
    const receiver = observed.view?.receiver;
    if (
      observed.link === "connected" &&
      observed.view?.leader === leader.id &&
      observed.view.term === leader.term &&
      receiver?.state === "streaming" &&
      receiver.lastMessageAgeMs + (observation.nowMs - observed.viewAtMs) <= silentMs
    ) {
      hearing.add(observed.id);
    }
  }
  return hearing;
}

/** Could the leader still complete a request with the nodes out of our sight and those that hear it? */
export function leaderCouldComplete(
  rules: readonly Rule[],
  leader: NodeId,
  hearing: ReadonlySet<NodeId>,
): boolean {
  const nodes = new Set(hearing).add(leader);
  return rules.length > 0 && rules.every((rule) => canFulfil(rule, nodes));
}

export function highestTerm(observation: Observation): Term {
  const seen = [...observation.nodes.values()].flatMap(({ view }) =>
    view === null ? [] : [view.promisedTerm, view.term],
  );
  return term(Math.max(noTerm, ...seen));
}

/** A node reports what it has applied, which is committed: the highest version is in force, older ones were replaced. */
export function rulesetsInForce(seen: readonly Ruleset[]): Ruleset[] {
  const version = seen.reduce((highest, ruleset) => Math.max(highest, ruleset.version), 0);
  return distinctRulesets(seen.filter((ruleset) => ruleset.version === version));
}

/** What every leader change is to know of what was seen before it. */
export function seenBefore(observation: Observation): {
  readonly rulesets: readonly Ruleset[];
  readonly highestTerm: Term;
  readonly leader?: LeaderClaim;
} {
  const leader = claimOf(observation);
  const { rulesets } = observation;
  return { rulesets, highestTerm: highestTerm(observation), ...(leader === null ? {} : { leader }) };
}

/** The nodes that may lead under every ruleset in force and can be recruited, the most advanced first. */
export function successors(
  { nodes, rulesets }: Observation,
  leader: NodeId | undefined,
  flushed: ReadonlyMap<NodeId, bigint>,
): NodeId[] {
  const may = (id: NodeId): boolean => rulesets.every((ruleset) => ruleset.leaders.has(id));
  const streams = ({ view }: Observed): number =>
    view?.leader === leader && view?.receiver?.state === "streaming" ? 1 : 0;
  return [...nodes.values()]
    .filter((observed) => observed.id !== leader && may(observed.id) && canBeRecruited(observed))
    .sort(
      (a, b) =>
        streams(b) - streams(a) ||
        Number((flushed.get(b.id) ?? 0n) - (flushed.get(a.id) ?? 0n)) ||
        compareIds(a.id, b.id),
    )
    .map(({ id }) => id);
}

/**
 * Of the cohort, or to be: by an intent, or by rules on their way into the log. As long as those aren't durable, the ones
 * before them hold, too, and a new leader's first record must meet them: so whoever knows no other rules than some that
 * name it stays a member. Everybody else is an observer.
 */
export function isMember({ rulesets, nodes }: Observation, node: NodeId): boolean {
  const own = nodes.get(node)?.view?.ruleset;
  const underWay = [...nodes.values()].flatMap(({ view }) =>
    view?.pending ? [view.pending, ...(view.ruleset === null ? [] : [view.ruleset])] : [],
  );
  return [...rulesets, ...underWay, ...(own ? [own] : [])].some(
    (ruleset) =>
      cohortIds(ruleset).includes(node) || ruleset.intent?.nodes.some(({ id }) => id === node) === true,
  );
}
