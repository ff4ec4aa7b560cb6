// What coordinators and sidecars say to each other, as TypeScript. Written by hand; wire.ts turns the
// loader's objects into these and back, so nothing of the wire passes beyond the adapters.

import {
  type Follower as CoreFollower,
  type ExtensionState as CoreState,
  extensionStates,
  type PostgresState,
  postgresStates,
  type Receiver,
} from "@quorate/consensus/node-status.ts";
import type { CoordinatorId, Lsn, NodeId, Position, Term } from "@quorate/consensus/types.ts";

export type { CoordinatorId, Lsn, NodeId, Position, Term };

/** A ruleset as it travels: its own text is opaque here (JSON of the ruleset). */
export type RulesetText = {
  readonly version: number;
  readonly text: string;
  /** In reports: term and end of its record in the log. */
  readonly recordedAt?: Position;
};

/** The expected "no": a value, never an exception. */
export type Refusal = {
  readonly code: string;
  readonly message: string;
  readonly promisedTerm: Term;
  readonly promisedTo: CoordinatorId | null;
};

export type Refused = { readonly ok: false; readonly refusal: Refusal };
export type Accepted<T> = { readonly ok: true } & T;
export type Reply<T> = Accepted<T> | Refused;

export type RecruitRequest = {
  readonly term: Term;
  readonly coordinator: CoordinatorId;
  readonly reason: string;
};
export type Recruited = {
  readonly position: Position;
  readonly commitLsn: Lsn | null;
  readonly ruleset: RulesetText | null;
  readonly tailRulesets: readonly RulesetText[];
  readonly systemIdentifier: string | null;
  /** False: an ex-leader that would have to restart before it could lead or follow. */
  readonly inRecovery: boolean;
  /** For so long a leader may still answer reads by what this node has confirmed; 0: it may not. */
  readonly leaseMs: number;
  /** For how long its Postgres has been running; 0 while it isn't consistent. */
  readonly upMs: number;
  /** Which life of the node reports; null: not distinguished. */
  readonly incarnation: string | null;
  readonly status: NodeStatus;
};

export type FetchRequest = {
  readonly term: Term;
  readonly coordinator: CoordinatorId;
  readonly from: NodeId;
  readonly host: string;
  readonly port: number;
  readonly target: Position;
  readonly timeoutMs: number;
};
export type Fetched = { readonly position: Position };

export type ElectRequest = {
  readonly term: Term;
  readonly coordinator: CoordinatorId;
  readonly rule: string;
  readonly joint: readonly string[];
  readonly ruleset: RulesetText;
};
export type Elected = { readonly position: Position };

export type FollowRequest = {
  readonly term: Term;
  readonly coordinator: CoordinatorId;
  readonly leader: NodeId;
  readonly host: string;
  readonly port: number;
  readonly member: boolean;
  /** The life of the node that all rulesets of the term count, from the coordinator who recruited it. */
  readonly counts?: string;
};
export type Followed = { readonly done: "following" | "cloning" };

export type ChangeRulesetRequest = {
  readonly term: Term;
  readonly rule: string;
  readonly ruleset: RulesetText;
  readonly timeoutMs: number;
};
export type RulesetChanged = { readonly lsn: Lsn };

export type QuiesceRequest = { readonly term: Term; readonly on: boolean; readonly timeoutMs: number };
export type Quiesced = { readonly lsn: Lsn | null };

export type BootstrapRequest = { readonly cluster: string };
export type Bootstrapped = { readonly systemIdentifier: string };

export type ControlAction = "start" | "stop" | "restart" | "kill" | "discard" | "remake";
export type ControlRequest = { readonly action: ControlAction };
export type Controlled = { readonly status: NodeStatus };

/** A JSON object in one line. */
export type RecordRequest = { readonly event: string };
export type Recorded = { readonly kept: boolean };
export type EventsRequest = { readonly limit: number };
export type Events = { readonly events: readonly string[] };

/** `holder`: one run of one gateway; `obeys`: its share by an earlier answer; `open`: what it has or is opening. */
export type LeaseConnectionsRequest = {
  readonly holder: string;
  readonly obeys: number;
  readonly open: number;
  readonly wants: number;
  /** It has closed all and goes. */
  readonly ends: boolean;
};
/** `budget`: of all gateways together. */
export type LeasedConnections = {
  readonly share: number;
  readonly expiresMs: number;
  readonly budget: number;
};

export type WatchRequest = { readonly watcher: string; readonly intervalMs: number };

export type { PostgresState, Receiver };
export { extensionStates, postgresStates };
export type ExtensionState = Exclude<CoreState, "">;

export type Follower = CoreFollower & {
  readonly pid: number;
  readonly writtenLsn: Lsn | null;
  readonly flushedLsn: Lsn | null;
  readonly appliedLsn: Lsn | null;
};

export type Clone = { readonly from: NodeId; readonly doneBytes: number; readonly totalBytes: number };

export type NodeStatus = {
  readonly node: NodeId;
  readonly zone: string;
  readonly region: string;
  readonly cluster: string;
  readonly host: string;
  readonly pgPort: number;
  readonly grpcPort: number;
  readonly httpPort: number;
  readonly postgres: PostgresState;
  /** null unless Postgres runs or starts and its control socket answers. */
  readonly state: ExtensionState | null;
  readonly term: Term;
  readonly promisedTerm: Term;
  readonly promisedTo: CoordinatorId | null;
  readonly fenceTerm: Term;
  /** The postmaster's. */
  readonly pid: number | null;
  readonly inRecovery: boolean;
  readonly consistent: boolean;
  readonly position: Position | null;
  readonly termStartLsn: Lsn | null;
  /** On a leader: where the log that it still has begins. */
  readonly oldestLsn: Lsn | null;
  readonly commitLsn: Lsn | null;
  readonly receivedLsn: Lsn | null;
  readonly flushedLsn: Lsn | null;
  readonly appliedLsn: Lsn | null;
  readonly rule: string | null;
  readonly joint: readonly string[];
  readonly ruleset: RulesetText | null;
  /** On a leader: a ruleset on its way into the log, not durable yet. */
  readonly pending: RulesetText | null;
  readonly leader: NodeId | null;
  readonly receiver: Receiver | null;
  readonly followers: readonly Follower[];
  readonly quiesced: boolean;
  readonly waiting: number;
  readonly systemIdentifier: string | null;
  /** Rises with every status of this sidecar process. */
  readonly seq: number;
  /** Why Postgres stopped last, in words. */
  readonly lastExit: string | null;
  /** An operator stopped this Postgres: don't repair. */
  readonly operatorStopped: boolean;
  readonly sidecarVersion: string;
  /** Led `term` until it stopped or crashed. */
  readonly wasLeader: boolean;
  readonly clone: Clone | null;
  /** Age of the last message from Postgres's control socket; null: it doesn't answer. Shows a frozen Postgres. */
  readonly controlAgeMs: number | null;
  /** For how long a small write to the node's disk has been waiting; 0: none is. */
  readonly diskStuckMs: number;
  /** Which life of the node its data is; null: no data, or not distinguished. */
  readonly incarnation: string | null;
  /** JSON, see sidecar/src/backup/backup-report.ts; absent: this node has nothing to do with backups. */
  readonly backup?: string;
};
