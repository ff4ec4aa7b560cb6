// What is said of one node, in the words that the wire, the control socket and the failure table share.

import type { Lsn, NodeId, Term } from "./types.ts";

/** What the sidecar knows of the Postgres process: NodeStatus.postgres in proto/quorate.proto. */
export const postgresStates = [
  "absent",
  "stopped",
  "crashed",
  "starting",
  "running",
  "cloning",
  "stopping",
  "failed",
] as const;
export type PostgresState = (typeof postgresStates)[number];

/** What the extension says about itself (docs/control-socket.md). */
export const extensionStates = [
  "starting",
  "fenced",
  "follower",
  "fetching",
  "candidate",
  "elected",
  "leader",
  "stopping",
] as const;
/** Empty while Postgres doesn't run, or doesn't speak. */
export type ExtensionState = "" | (typeof extensionStates)[number];

export interface Receiver {
  readonly state: "streaming" | "connecting" | "stopped";
  readonly timeline: Term;
  readonly lastMessageAgeMs: number;
}

export interface Follower {
  readonly node: NodeId;
  /** Gets everything, not only what is committed: without that its acknowledgement of a commit never comes. */
  readonly member: boolean;
  readonly timeline: Term;
  readonly replyAgeMs: number;
  readonly flushedLsn?: Lsn | null;
}
