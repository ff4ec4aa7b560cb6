// The words of the node: what it is asked, what it asks of the disk and of Postgres, what it remembers.

import type { ExtensionState, PostgresState } from "./node-status.ts";
import type { Ruleset } from "./ruleset.ts";
import type { CoordinatorId, Lsn, NodeId, Position, Term } from "./types.ts";

export interface Promised {
  readonly term: Term;
  readonly coordinator: CoordinatorId;
}

export interface RulesetText {
  readonly version: number;
  readonly text: string;
  /** In reports: term and end of its record in the log. */
  readonly recordedAt?: Position;
}

export type NodeRequest =
  | {
      readonly kind: "recruit";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly reason: string;
    }
  | {
      readonly kind: "fetch";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly from: NodeId;
      readonly target: Position;
    }
  | {
      readonly kind: "elect";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly rule: string;
      readonly joint: readonly string[];
      readonly ruleset: RulesetText;
    }
  | {
      readonly kind: "follow";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly leader: NodeId;
      readonly member: boolean;
      /** From the coordinator of the term, who has recruited it: the life that all its rulesets count. */
      readonly counts?: string;
    }
  | {
      readonly kind: "changeRuleset";
      readonly term: Term;
      readonly rule: string;
      readonly ruleset: RulesetText;
      readonly timeoutMs: number;
    }
  | { readonly kind: "quiesce"; readonly term: Term; readonly on: boolean; readonly timeoutMs: number };

/** One command of docs/control-socket.md; the shell adds the conninfo of `leader` and `from`. */
export type ControlCommand =
  | { readonly cmd: "fence"; readonly term: Term }
  | { readonly cmd: "follow"; readonly term: Term; readonly leader: NodeId; readonly member: boolean }
  | { readonly cmd: "fetch"; readonly term: Term; readonly from: NodeId; readonly target: Position }
  | {
      readonly cmd: "elect";
      readonly term: Term;
      readonly rule: string;
      readonly joint: readonly string[];
      readonly ruleset: RulesetText;
    }
  | {
      readonly cmd: "ruleset";
      readonly term: Term;
      readonly rule: string;
      readonly ruleset: RulesetText;
      readonly timeoutMs: number;
    }
  | { readonly cmd: "quiesce"; readonly on: boolean; readonly timeoutMs: number };

export interface FenceReport {
  readonly position: Position;
  readonly commitLsn: Lsn;
  readonly ruleset: RulesetText | null;
  readonly tailRulesets: readonly RulesetText[];
  /** False on an ex-leader that would have to restart before it could lead or follow. Absent: true. */
  readonly inRecovery?: boolean;
  /** Which life of the node reports. The core adds it; Postgres doesn't know. */
  readonly incarnation?: string;
  readonly leaseMs?: number;
  /** For how long its Postgres has been running; 0 while it isn't consistent. Absent: long. */
  readonly upMs?: number;
}

export type ControlResult =
  | { readonly ok: true; readonly report?: FenceReport; readonly position?: Position; readonly lsn?: Lsn }
  | { readonly ok: false; readonly code: string; readonly message: string };

export type NodeRefusalCode =
  | "stale_term"
  | "promised_to_another"
  | "not_recruited"
  | "already_elected"
  | "superseded"
  | "no_data"
  | "postgres_down"
  | "wrong_state"
  | "persist_failed"
  | "postgres";

export interface NodeRefusal {
  readonly code: NodeRefusalCode;
  readonly message: string;
  /** Of docs/control-socket.md, when Postgres refused. */
  readonly controlCode?: string;
  readonly promised: Promised | null;
}

export type NodeAnswer =
  | { readonly kind: "recruited"; readonly report: FenceReport }
  | { readonly kind: "position"; readonly position: Position }
  | { readonly kind: "done"; readonly lsn?: Lsn }
  | { readonly kind: "refused"; readonly refusal: NodeRefusal };

export type NodeEvent =
  | { readonly kind: "request"; readonly requestId: string; readonly request: NodeRequest }
  | {
      readonly kind: "persisted";
      readonly requestId: string;
      readonly ok: boolean;
      readonly message?: string;
    }
  | { readonly kind: "controlled"; readonly requestId: string; readonly result: ControlResult }
  /** Postgres was restarted as a fenced follower, or cloned and started, as an effect asked for. */
  | { readonly kind: "prepared"; readonly requestId: string; readonly ok: boolean; readonly message?: string }
  /** A new life of this node begins: on disk before its data is made, as a copy or as the first of a new cluster. */
  | { readonly kind: "reborn"; readonly incarnation: string; readonly copied: boolean }
  /**
   * The ruleset that Postgres has applied, whenever it is another one than before. `fresh`: since this Postgres started,
   * a leader with proof that it led has told it what was committed, and it has applied all of that.
   */
  | { readonly kind: "applied"; readonly ruleset: Ruleset | null; readonly fresh: boolean }
  /** It is on disk that this life counts. */
  | { readonly kind: "admitted"; readonly incarnation: string }
  /** The control socket answers (again), and what its status says: Postgres was started, or a running one adopted. */
  | {
      readonly kind: "attached";
      readonly fenceTerm: Term;
      readonly state: ExtensionState;
      readonly term: Term;
    }
  | { readonly kind: "postgres"; readonly state: PostgresState };

export type NodeEffect =
  /** Write and fsync (file and directory), then 'persisted'. The shell keeps the order of these effects. */
  | { readonly kind: "persist"; readonly requestId: string; readonly promise: Promised }
  | { readonly kind: "control"; readonly requestId: string; readonly command: ControlCommand }
  /** Stop Postgres at once and start it as a fenced follower, then 'prepared'. */
  | { readonly kind: "restartFenced"; readonly requestId: string }
  /** Make a new incarnation durable, copy a data directory from that node, start it as a fenced follower, then 'prepared'. */
  | { readonly kind: "clone"; readonly requestId: string; readonly from: NodeId }
  /** Make it durable that this life counts, then 'admitted'. */
  | { readonly kind: "admit"; readonly incarnation: string }
  | { readonly kind: "reply"; readonly requestId: string; readonly answer: NodeAnswer };

/** `rechecking`: an ex-leader was restarted to lead, and is asked again what it holds. */
export type Stage = "persisting" | "controlling" | "preparing" | "rechecking";

export interface Operation {
  readonly request: NodeRequest;
  readonly stage: Stage;
  /** A follow that has already restarted or cloned once doesn't do so again. */
  readonly prepared: boolean;
}

export interface Following {
  readonly term: Term;
  readonly leader: NodeId;
  /** As asked for. */
  readonly member: boolean;
}

export interface NodeState {
  readonly id: NodeId;
  /** Obeyed from the moment it was decided, even before it is on disk. */
  readonly promise: Promised | null;
  /** What the disk is known to hold; only this is ever reported. */
  readonly durable: Promised | null;
  /** The term whose coordinator got a report that still holds: Postgres was not started anew since. */
  readonly recruitedTerm: Term;
  /** What was reported last. */
  readonly reported: Position | null;
  /** The last term in which this node was told to lead: never told twice. */
  readonly electedTerm: Term;
  readonly postgres: PostgresState;
  /** Which life this is: made at random with the data directory. Null: not known, not distinguished. */
  readonly incarnation: string | null;
  /** This life may stream as a member: no ruleset in force when it began names another one. On disk. */
  readonly admitted: boolean;
  /** Whom it was last told to follow; resumed after a restart. Nothing is lost when it is forgotten. */
  readonly following: Following | null;
  /** How many requests it has made of itself. */
  readonly ownRequests: number;
  readonly operations: ReadonlyMap<string, Operation>;
}

export interface NodeStep {
  readonly state: NodeState;
  readonly effects: readonly NodeEffect[];
}
