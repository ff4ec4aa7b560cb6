// The words of the coordinator: what it is asked, what it answers with, what it remembers between two steps.

import type { LeaderClaim } from "./observation.ts";
import type { Report, Reports, Shortage } from "./recruitment.ts";
import type { Ruleset } from "./ruleset.ts";
import type { CoordinatorId, NodeId, Position, Term } from "./types.ts";

export interface CoordinatorOptions {
  /** How long to wait for the remaining reports once those at hand suffice. */
  readonly graceMs: number;
  readonly recruitTimeoutMs: number;
  readonly fetchTimeoutMs: number;
  readonly electTimeoutMs: number;
  readonly followTimeoutMs: number;
  /** From the candidate's term record on its own disk until it admits writes. */
  readonly establishTimeoutMs: number;
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
}

export const defaultCoordinatorOptions: CoordinatorOptions = {
  graceMs: 20,
  recruitTimeoutMs: 1_000,
  fetchTimeoutMs: 30_000,
  electTimeoutMs: 5_000,
  followTimeoutMs: 30_000,
  establishTimeoutMs: 10_000,
  backoffMinMs: 50,
  backoffMaxMs: 5_000,
};

export interface ChangeRequest {
  readonly reason: string;
  /** Every ruleset that the shell has seen; the nodes of all of them are recruited. */
  readonly rulesets: readonly Ruleset[];
  /** The highest term seen in any status or refusal. */
  readonly highestTerm: Term;
  /** Operator's choice: this candidate or none. */
  readonly candidate?: NodeId;
  /** Tie-break among equally advanced candidates. */
  readonly preferZone?: string;
  /** Coordinator method of a rules change: the establishment carries this ruleset. Also the first ruleset of a new cluster. */
  readonly newRuleset?: Ruleset;
  /** First leader of a new cluster: a node without any ruleset is acceptable, `newRuleset` alone counts. */
  readonly bootstrap?: boolean;
  /** Wait at least this long unless whoever may hold a read lease was recruited; the reports' own leases count anyway. */
  readonly leaseWaitMs?: number;
  /** The newest claim to leadership that was seen: only that node can hold a lease, unless the log tells of a later one. */
  readonly leader?: LeaderClaim;
  /** 0 ≤ jitter < 1, random, from the shell: used when the attempt fails. */
  readonly jitter: number;
}

export type CallMethod = "recruit" | "fetch" | "elect" | "follow";

export interface CallBase {
  /** Unique within this coordinator's life; the reply carries it. */
  readonly id: string;
  readonly term: Term;
  readonly coordinator: CoordinatorId;
  readonly node: NodeId;
  readonly timeoutMs: number;
}

export type Call = CallBase &
  (
    | { readonly method: "recruit"; readonly reason: string }
    | { readonly method: "fetch"; readonly from: NodeId; readonly target: Position }
    | {
        readonly method: "elect";
        readonly rule: string;
        readonly joint: readonly string[];
        readonly ruleset: { readonly version: number; readonly text: string };
      }
    | {
        readonly method: "follow";
        readonly leader: NodeId;
        readonly member: boolean;
        /** The life of the node that all rulesets of this term count. */
        readonly counts?: string;
      }
  );

export interface Refusal {
  readonly code: string;
  readonly message: string;
  readonly promisedTerm?: Term;
}

export type CallResult =
  | { readonly kind: "recruited"; readonly report: Report }
  | { readonly kind: "fetched"; readonly position: Position }
  | { readonly kind: "elected"; readonly position: Position }
  | { readonly kind: "following" }
  | { readonly kind: "refused"; readonly refusal: Refusal }
  /** No answer: connection refused, reset, or timed out. */
  | { readonly kind: "unreachable"; readonly message: string };

export type TimerName = "recruit" | "grace" | "lease" | "establish";

export type CoordinatorEvent =
  | { readonly kind: "begin"; readonly request: ChangeRequest }
  | { readonly kind: "reply"; readonly callId: string; readonly result: CallResult }
  | { readonly kind: "timer"; readonly timerId: string }
  /** From the candidate's status stream. */
  | {
      readonly kind: "status";
      readonly node: NodeId;
      readonly state: string;
      readonly term: Term;
      readonly promisedTerm: Term;
      readonly running: boolean;
    }
  | { readonly kind: "abandon"; readonly reason: string };

export type CoordinatorEffect =
  | { readonly kind: "call"; readonly call: Call }
  | { readonly kind: "timer"; readonly timerId: string; readonly afterMs: number }
  /** Progress in words, for the log and for `explain`. */
  | { readonly kind: "note"; readonly text: string }
  | { readonly kind: "finished"; readonly outcome: Outcome };

export type Outcome =
  | { readonly kind: "established"; readonly term: Term; readonly leader: NodeId; readonly ruleset: Ruleset }
  | {
      readonly kind: "failed";
      readonly term: Term;
      readonly reason: string;
      readonly shortages: readonly Shortage[];
      readonly retryAfterMs: number;
      readonly highestTerm: Term;
    };

export type Phase =
  | { readonly kind: "recruiting"; readonly graceStarted: boolean }
  | { readonly kind: "leaseWait"; readonly plan: Plan }
  | { readonly kind: "fetching"; readonly plan: Plan }
  | { readonly kind: "electing"; readonly plan: Plan }
  | { readonly kind: "establishing"; readonly plan: Plan };

/** Fixed once the recruited set was judged sufficient. */
export interface Plan {
  readonly candidate: NodeId;
  readonly newest: NodeId;
  readonly target: Position;
  readonly ruleset: Ruleset;
  readonly rulesets: readonly Ruleset[];
  readonly needsFetch: boolean;
}

export interface Attempt {
  readonly term: Term;
  readonly request: ChangeRequest;
  readonly phase: Phase;
  readonly reports: Reports;
  readonly asked: ReadonlySet<NodeId>;
  /** Recruited after the plan was made: not counted, pointed at the leader once there is one. */
  readonly lateRecruits: ReadonlySet<NodeId>;
  /** Why a node that was asked is not recruited. */
  readonly failures: ReadonlyMap<NodeId, string>;
  /** Their sidecars say that Postgres is down: whatever lease it held ended with it. */
  readonly down: ReadonlySet<NodeId>;
  readonly pendingCalls: ReadonlyMap<string, { readonly method: CallMethod; readonly node: NodeId }>;
  readonly pendingTimers: ReadonlySet<string>;
}

export interface CoordinatorState {
  readonly id: CoordinatorId;
  readonly options: CoordinatorOptions;
  /** The highest term seen or used: an own term is never used twice. */
  readonly highestTerm: Term;
  readonly failedAttempts: number;
  readonly attempt: Attempt | null;
}

export interface CoordinatorStep {
  readonly state: CoordinatorState;
  readonly effects: readonly CoordinatorEffect[];
}
