// The rows of the failure table: what each situation looks like, and what it asks for.

import {
  diskHangs,
  hearingLeader,
  type LeaderFact,
  leaderCouldComplete,
  type Observation,
  type Observed,
  recruitable,
} from "./observation.ts";
import type { Rule } from "./rule.ts";
import { cohortIds } from "./ruleset.ts";
import { type NodeId, noTerm, type Term } from "./types.ts";

export interface DetectorOptions {
  /** A leader that was not heard of for so long is taken for isolated or frozen. */
  readonly silentMs: number;
  /** Without any leader: time for the rest of a starting cluster to appear. */
  readonly noLeaderHoldMs: number;
  /** After a higher promise was seen: somebody is changing the leader. */
  readonly attemptMs: number;
  /** A candidate has so long to be confirmed by its quorum. */
  readonly establishMs: number;
  /** A node promised to a term that came to nothing: so long until a new leader change frees it. */
  readonly deadPromiseMs: number;
  /** A follower that doesn't stream may take so long to connect by itself. */
  readonly repairHoldMs: number;
  /** Streams, but gets no further than so long ago, or has still not applied the ruleset in force. */
  readonly stuckMs: number;
  /** A node that lacks more of the log than this is named. */
  readonly lagBytes: number;
  /** A change of the cohort that stands still so long is taken up by whoever sees it. */
  readonly finishHoldMs: number;
  /** Leader changes beyond this number within the window double the patience of guesses each, up to a factor. */
  readonly dampFree: number;
  readonly dampWindowMs: number;
  readonly dampMax: number;
  /** Each rank waits so much longer than the one before. */
  readonly staggerMs: number;
}

export const defaultDetectorOptions: DetectorOptions = {
  silentMs: 2_500,
  noLeaderHoldMs: 1_500,
  attemptMs: 2_000,
  establishMs: 10_000,
  deadPromiseMs: 10_000,
  repairHoldMs: 1_000,
  stuckMs: 15_000,
  lagBytes: 256 * 1024 * 1024,
  finishHoldMs: 10_000,
  dampFree: 2,
  dampWindowMs: 60_000,
  dampMax: 16,
  staggerMs: 150,
};

export type RepairAction =
  /** Point the node at the current leader. */
  | "follow"
  /** A node outside of the cohort without data: copy it from the leader, as an observer. */
  | "create"
  /** A cohort node that lost its data: out of the cohort, copy, into the cohort again (goalOfRepair, nextCohortStep). */
  | "replace"
  /** Restart its Postgres: its replication stands still. */
  | "restart"
  /** Put aside what can't be started, so that it is made anew. */
  | "discard"
  /** Put its data aside though it runs: no node has what it lacks. It is brought up to date from the archive, or made anew. */
  | "remake"
  /** Go on with the change of the cohort that the ruleset in force was a step of (goalOfIntent, nextCohortStep). */
  | "finish";

export type Decision =
  | { readonly kind: "nothing"; readonly row: RowName; readonly reason: string }
  | { readonly kind: "waitUntil"; readonly row: RowName; readonly atMs: number; readonly reason: string }
  | { readonly kind: "changeLeader"; readonly row: RowName; readonly reason: string }
  | {
      readonly kind: "repair";
      readonly row: RowName;
      readonly node: NodeId;
      readonly action: RepairAction;
      readonly leader: NodeId;
      /** Whoever follows does so as a member, not as an observer. */
      readonly member: boolean;
      readonly reason: string;
    };

/** Since when each situation has lasted; carried from one look to the next. */
export interface DetectorState {
  readonly since: ReadonlyMap<string, number>;
  /** The newest leader's term, and when it rose lately. */
  readonly term: Term;
  readonly changesAtMs: readonly number[];
}

export const initialDetector: DetectorState = { since: new Map(), term: noTerm, changesAtMs: [] };

export interface Facts {
  readonly observation: Observation;
  readonly options: DetectorOptions;
  readonly leader: LeaderFact | null;
}

export interface Finding {
  readonly reason: string;
  /** How long it must have lasted. */
  readonly holdMs: number;
  /** Concluded from silence rather than reported: its patience grows when the leader changes often. */
  readonly inferred?: boolean;
  /** Started earlier than we saw it: at this time. */
  readonly startedAtMs?: number;
}

export interface Row {
  readonly name: RowName;
  /** For people: docs/failure-table.md and `quorate explain` print these. */
  readonly situation: string;
  readonly decision:
    | "nothing"
    | "wait"
    | "change the leader"
    | "repair: follow"
    | "repair: create"
    | "repair: replace"
    | "repair: restart"
    | "repair: discard"
    | "repair: remake"
    | "repair: finish";
  readonly patience: string;
}

export type RowName =
  | "no_ruleset"
  | "change_under_way"
  | "leader_establishing"
  | "no_leader"
  | "leader_postgres_down"
  | "leader_connection_broken"
  | "leader_silent"
  | "leader_without_quorum"
  | "leader_disk_hangs"
  | "leader_revoked"
  | "dead_promise"
  | "change_impossible"
  | "leader_well"
  | "ruleset_pending"
  | "cohort_unfinished"
  | "operator_stopped"
  | "node_out_of_reach"
  | "node_lost_data"
  | "node_damaged"
  | "node_lacks_wal"
  | "node_without_data"
  | "node_postgres_down"
  | "node_frozen"
  | "node_older_leader"
  | "node_fenced"
  | "node_wrong_leader"
  | "node_not_streaming"
  | "node_not_member"
  | "node_stuck"
  | "node_wrong_ruleset"
  | "node_lagging"
  | "node_well";

export interface LeaderRow extends Row {
  readonly look: (facts: Facts) => Finding | null;
}

function rulesOfLeader({ observation, leader }: Facts): Rule[] {
  if (leader === null) {
    return [];
  }
  return observation.rulesets
    .map((ruleset) => ruleset.leaders.get(leader.id))
    .filter((rule) => rule !== undefined);
}

/** Since when a follower has heard nothing, as far as its receiver still knows. */
function quietMs({ nowMs }: Observation, { view, viewAtMs }: Observed): number {
  const receiver = view?.receiver;
  return receiver?.state === "streaming" ? receiver.lastMessageAgeMs + (nowMs - viewAtMs) : 0;
}

/** Promises are never taken back: these nodes acknowledge nothing of this term any more. */
function promisedAbove({ nodes }: Observation, above: Term): ReadonlySet<NodeId> {
  const ids = [...nodes.values()]
    .filter(({ view }) => view !== null && view.promisedTerm > above)
    .map(({ id }) => id);
  return new Set(ids);
}

function describeHearing(hearing: ReadonlySet<NodeId>): string {
  return hearing.size === 0 ? "no follower hears it" : `only ${[...hearing].join(", ")} hear it`;
}

/** Rows that ask for another leader, in the order in which they are looked at. */
export const leaderRows: readonly LeaderRow[] = [
  {
    name: "leader_postgres_down",
    situation:
      "the sidecar of the leader says that its Postgres has stopped, crashed, or started again as a fenced follower",
    decision: "change the leader",
    patience: "none",
    look: ({ leader, observation }) => {
      if (leader === null || leader.standing !== "gone" || leader.observed.link !== "connected") {
        return null;
      }
      const what = leader.view.postgres === "running" ? "restarted and leads no more" : leader.view.postgres;
      return {
        reason: `Postgres of ${leader.id}, leader of term ${leader.term}: ${what}`,
        holdMs: 0,
        startedAtMs: observation.nowMs,
      };
    },
  },
  {
    name: "leader_connection_broken",
    situation:
      "the connection to the leader's sidecar was reset, and the followers that still stream from it are too few for its rule",
    decision: "change the leader",
    patience: "none",
    look: (facts) => {
      const { leader, observation, options } = facts;
      if (leader === null || leader.observed.link !== "reset") {
        return null;
      }
      const hearing = hearingLeader(observation, leader, options.silentMs);
      if (leaderCouldComplete(rulesOfLeader(facts), leader.id, hearing)) {
        return null;
      }
      return {
        reason: `the connection to ${leader.id}, leader of term ${leader.term}, was reset, and ${describeHearing(hearing)}`,
        holdMs: 0,
        startedAtMs: leader.observed.linkSinceMs,
      };
    },
  },
  {
    name: "leader_silent",
    situation:
      "nothing is heard of the leader, and the followers that hear it are too few for its rule: isolated or frozen",
    decision: "change the leader",
    patience: "silentMs",
    look: (facts) => {
      const { leader, observation, options } = facts;
      if (leader === null || leader.observed.link === "connected" || leader.observed.link === "reset") {
        return null;
      }
      const hearing = hearingLeader(observation, leader, options.silentMs);
      if (leaderCouldComplete(rulesOfLeader(facts), leader.id, hearing)) {
        return null;
      }
      return {
        reason: `nothing heard of ${leader.id}, leader of term ${leader.term}, and ${describeHearing(hearing)}`,
        inferred: true,
        holdMs: options.silentMs,
        startedAtMs: leader.observed.viewAtMs,
      };
    },
  },
  {
    name: "leader_without_quorum",
    situation: "the leader is reachable, but its followers try in vain to stream from it",
    decision: "change the leader",
    patience: "silentMs",
    look: (facts) => {
      const { leader, observation, options } = facts;
      if (leader === null || leader.standing !== "leads" || leader.observed.link !== "connected") {
        return null;
      }
      const hearing = hearingLeader(observation, leader, options.silentMs);
      const trying = [...observation.nodes.values()].filter(
        (observed) =>
          observed.link === "connected" &&
          observed.view?.leader === leader.id &&
          observed.view.term === leader.term &&
          observed.view.state === "follower" &&
          !hearing.has(observed.id),
      );
      if (trying.length === 0 || leaderCouldComplete(rulesOfLeader(facts), leader.id, hearing)) {
        return null;
      }
      const names = trying.map((observed) => observed.id).join(", ");
      return {
        reason: `${names} can't stream from ${leader.id}, which has no quorum in term ${leader.term}`,
        inferred: true,
        holdMs: options.silentMs,
        startedAtMs: observation.nowMs - Math.min(...trying.map((each) => quietMs(observation, each))),
      };
    },
  },
  {
    name: "leader_disk_hangs",
    situation:
      "a small write to the leader's disk has been waiting too long: nothing is flushed there any more",
    decision: "change the leader",
    patience: "the 2 s of the write itself",
    look: ({ leader, observation }) => {
      if (leader === null || leader.standing !== "leads" || leader.observed.link !== "connected") {
        return null;
      }
      if (!diskHangs(leader.view)) {
        return null;
      }
      const reason = `the disk of ${leader.id}, leader of term ${leader.term}, has taken no write for ${leader.view.diskStuckMs} ms`;
      return { reason, holdMs: 0, startedAtMs: observation.nowMs };
    },
  },
  {
    name: "leader_revoked",
    situation:
      "a node still claims to lead, but so many of the cohort have promised a higher term that it can't reach a quorum any more, and whoever asked for the promises doesn't go on (two coordinators met, or one died)",
    decision: "change the leader",
    patience: "none; attemptMs for a term of another coordinator",
    look: (facts) => {
      const { leader, observation } = facts;
      if (leader === null || leader.standing !== "leads") {
        return null;
      }
      const promised = promisedAbove(observation, leader.term);
      const free = observation.rulesets.flatMap(cohortIds).filter((id) => !promised.has(id));
      const rules = rulesOfLeader(facts);
      if (promised.size === 0 || rules.length === 0 || leaderCouldComplete(rules, leader.id, new Set(free))) {
        return null;
      }
      const reason = `${[...promised].join(", ")} promised above term ${leader.term} of ${leader.id}, which can't reach a quorum any more`;
      return { reason, holdMs: 0 };
    },
  },
  {
    name: "dead_promise",
    situation: "a node has promised a term above the leader's that came to nothing, so it may not follow",
    decision: "change the leader",
    patience: "deadPromiseMs; six times as long for a node outside of the cohort",
    look: ({ leader, observation, options }) => {
      if (leader === null || leader.standing !== "leads") {
        return null;
      }
      const cohort = new Set(observation.rulesets.flatMap(cohortIds));
      const stuck = [...observation.nodes.values()].filter(
        (observed) =>
          observed.link === "connected" &&
          observed.view !== null &&
          observed.view.postgres === "running" &&
          observed.view.promisedTerm > leader.term,
      );
      if (stuck.length === 0) {
        return null;
      }
      const names = stuck
        .map((observed) => `${observed.id} (term ${observed.view?.promisedTerm})`)
        .join(", ");
      // For the sake of an observer alone there is less hurry: it costs the clients a short pause.
      const factor = stuck.some((observed) => cohort.has(observed.id)) ? 1 : 6;
      return {
        inferred: true,
        reason: `${names} promised above term ${leader.term} of ${leader.id} and can't follow it`,
        holdMs: factor * options.deadPromiseMs,
      };
    },
  },
  {
    name: "no_leader",
    situation: "no node leads or is about to",
    decision: "change the leader",
    patience: "none when the whole cohort is in reach, else noLeaderHoldMs",
    look: ({ leader, observation, options }) => {
      if (leader !== null && leader.standing !== "gone") {
        return null;
      }
      const cohort = observation.rulesets.flatMap(cohortIds);
      const reachable = recruitable(observation);
      const complete = cohort.every((id) => reachable.has(id));
      return { reason: "no node leads", holdMs: complete ? 0 : options.noLeaderHoldMs };
    },
  },
];

const otherRows: readonly Row[] = [
  {
    name: "no_ruleset",
    situation: "no ruleset is known: the cluster was never bootstrapped, or no node was reached yet",
    decision: "nothing",
    patience: "",
  },
  {
    name: "change_under_way",
    situation: "a promise above the leader's term was seen just now: another coordinator is at work",
    decision: "wait",
    patience: "attemptMs",
  },
  {
    name: "leader_establishing",
    situation: "a candidate has begun its term and waits for its quorum",
    decision: "wait",
    patience: "attemptMs, then others point the nodes at it; establishMs, then change the leader",
  },
  {
    name: "change_impossible",
    situation: "another leader is needed, but too few nodes are in reach to make one",
    decision: "wait",
    patience: "until more nodes are in reach",
  },
  { name: "leader_well", situation: "the leader leads", decision: "nothing", patience: "" },
  {
    name: "ruleset_pending",
    situation: "the leader's newest ruleset record is not durable yet under the old and the new rules",
    decision: "nothing",
    patience: "",
  },
  {
    name: "cohort_unfinished",
    situation: "the ruleset in force is a step on the way to another one, and nobody goes on",
    decision: "repair: finish",
    patience: "finishHoldMs",
  },
  {
    name: "operator_stopped",
    situation: "an operator stopped this Postgres",
    decision: "nothing",
    patience: "",
  },
  {
    name: "node_out_of_reach",
    situation: "the sidecar of a node is out of reach",
    decision: "nothing",
    patience: "",
  },
  {
    name: "node_lost_data",
    situation:
      "a cohort node has no data, or data of a later life than the ruleset counts: it can't know what it acknowledged and promised",
    decision: "repair: replace",
    patience: "none",
  },
  {
    name: "node_damaged",
    situation: "Postgres of a node can't be started because its data is damaged, while another node leads",
    decision: "repair: discard",
    patience: "damagedHoldMs",
  },
  {
    name: "node_lacks_wal",
    situation:
      "a node that was away for long can't stream: the leader has removed the log from where the node's ends",
    decision: "repair: remake",
    patience: "lacksWalHoldMs",
  },
  {
    name: "node_without_data",
    situation: "a node outside of the cohort has no data",
    decision: "repair: create",
    patience: "none",
  },
  {
    name: "node_postgres_down",
    situation: "Postgres of a node is down: its sidecar starts it",
    decision: "nothing",
    patience: "",
  },
  {
    name: "node_frozen",
    situation:
      "Postgres of a node runs and does not answer its sidecar: stopped or stuck; it is not counted on",
    decision: "nothing",
    patience: "",
  },
  {
    name: "node_older_leader",
    situation: "a node claims to lead an older term",
    decision: "repair: follow",
    patience: "none",
  },
  {
    name: "node_fenced",
    situation: "a node is fenced: it follows nobody",
    decision: "repair: follow",
    patience: "none",
  },
  {
    name: "node_wrong_leader",
    situation: "a node follows another leader or an older term, or still fetches for one",
    decision: "repair: follow",
    patience: "none",
  },
  {
    name: "node_not_streaming",
    situation: "a follower of the current leader doesn't stream",
    decision: "repair: follow",
    patience: "repairHoldMs",
  },
  {
    name: "node_not_member",
    situation:
      "a cohort node streams as an observer: it gets only what is committed, and can't help to commit it",
    decision: "repair: follow",
    patience: "none",
  },
  {
    name: "node_stuck",
    situation: "a node streams, and gets no further although the leader has more",
    decision: "repair: restart",
    patience: "stuckMs",
  },
  {
    name: "node_wrong_ruleset",
    situation: "a node streams, and has not applied the ruleset that is in force on the leader",
    decision: "repair: restart",
    patience: "stuckMs",
  },
  {
    name: "node_lagging",
    situation: "a node, perhaps an observer, streams and lacks more of the log than lagBytes",
    decision: "nothing",
    patience: "",
  },
  { name: "node_well", situation: "a node streams from the leader", decision: "nothing", patience: "" },
];

/** Every row, for people and diagrams. */
export const failureTable: readonly Row[] = [
  ...leaderRows.map(({ name, situation, decision, patience }) => ({ name, situation, decision, patience })),
  ...otherRows,
];
