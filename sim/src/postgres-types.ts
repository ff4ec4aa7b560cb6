// What a simulated Postgres is made of, and what it gets from its host.

import type { ControlResult, NodeId, Rule, Ruleset } from "@quorate/consensus";
import type { Checker } from "./checker.ts";
import type { LogRecord } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import type { Random } from "./random.ts";

export interface Timing {
  readonly startMs: number;
  readonly fsyncMs: number;
  readonly slowFsyncMs: number;
  readonly reconnectMs: number;
  readonly heartbeatMs: number;
}

export const defaultTiming: Timing = {
  startMs: 40,
  fsyncMs: 2,
  slowFsyncMs: 150,
  reconnectMs: 40,
  heartbeatMs: 150,
};

/** What survives: the log (its first `flushed` records even a power cut) and the persisted replay limit. */
export interface Disk {
  records: LogRecord[];
  flushed: number;
  /** Minimum recovery point: never beyond the commit LSN. */
  limit: number;
  /** The log before a truncation that no fsync has confirmed yet. */
  undo: { records: LogRecord[]; flushed: number } | null;
}

export interface PostgresHost {
  readonly id: NodeId;
  readonly checker: Checker;
  readonly random: Random;
  readonly timing: Timing;
  readonly nowMs: () => number;
  /** Runs unless the process has ended by then. */
  readonly after: (delayMs: number, run: () => void) => void;
  readonly send: (to: string, message: StreamMessage) => void;
  readonly newConnection: () => string;
  readonly respond: (requestId: string, result: ControlResult) => void;
  readonly changed: () => void;
  readonly finishWrite: (write: number, ok: boolean) => void;
  readonly finishRead: (read: number, lsnSeen: number | null) => void;
}

export interface Follower {
  readonly node: NodeId;
  readonly conn: string;
  readonly purpose: "follow" | "fetch";
  readonly member: boolean;
  sent: number;
  flushed: number;
  beat: number;
  repliedAtMs: number;
}

export interface Receiver {
  readonly purpose: "follow" | "fetch";
  readonly leader: NodeId;
  readonly term: number;
  readonly member: boolean;
  conn: string;
  streaming: boolean;
  heardAtMs: number;
  beat: number;
  readonly requestId: string;
  readonly targetLsn: number;
  readonly targetTerm: number;
}

export interface Leading {
  readonly term: number;
  readonly begin: LogRecord;
  rule: Rule;
  joint: Rule[];
  /** Every rule of the election, for the witness. */
  readonly electedUnder: readonly Rule[];
  /** The ruleset record on the way to durability, and what comes into force with it. */
  pending: { record: LogRecord; rule: Rule; requestId: string | null } | null;
  readonly ruleset: Ruleset;
  admits: boolean;
  quiesced: boolean;
  quiesceRequest: string | null;
  quiesceRound: number;
  writes: { write: number; record: LogRecord }[];
  reads: { read: number; beat: number }[];
  beat: number;
}
