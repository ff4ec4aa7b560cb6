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
  /** How long a confirmed heartbeat lets a leader answer reads by itself; 0: never. */
  readonly leaseMs: number;
  /** In LSNs. */
  readonly maxRecordSize: number;
}

export const defaultTiming: Timing = {
  startMs: 40,
  fsyncMs: 2,
  slowFsyncMs: 150,
  reconnectMs: 40,
  heartbeatMs: 150,
  leaseMs: 0,
  maxRecordSize: 3,
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
  /** This machine's monotonic clock: its rate is its own. */
  readonly nowMs: () => number;
  /** This machine's wall clock, which may jump. Nothing that is right asks for it. */
  readonly wallMs: () => number;
  /** The witness's time: may travel along, and nobody may decide by it. */
  readonly trueMs: () => number;
  /** How long a write takes that takes so long on a disk that is well. */
  readonly slowed: (writeMs: number) => number;
  /** Runs unless the process has ended by then. */
  readonly after: (delayMs: number, run: () => void) => void;
  readonly send: (to: string, message: StreamMessage) => void;
  readonly newConnection: () => string;
  readonly respond: (requestId: string, result: ControlResult) => void;
  readonly changed: () => void;
  /** `lsnOf` is the LSN that an acknowledged write got. */
  readonly finishWrite: (write: number, lsnOf: number | null) => void;
  readonly finishRead: (read: number, seen: Seen | null) => void;
}

/** What a read saw: the log up to an LSN; by the witness's time, not older than `freshMs`. */
export interface Seen {
  readonly lsn: number;
  readonly freshMs?: number;
}

export interface Beat {
  /** On the leader's own clock. */
  readonly sentMs: number;
  readonly trueMs: number;
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
  /** When each of the last rounds arrived here, on this machine's clock. */
  readonly arrivals: Map<number, number>;
  /** The newest round that the leader's quorum has confirmed: when it arrived here; by the witness, when it was sent. */
  fresh: { readonly arrivedMs: number; readonly trueMs: number } | null;
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
  reads: LeaderRead[];
  beat: number;
  readonly beats: Map<number, Beat>;
}

/** Waits until a round that began after it is confirmed. */
export interface LeaderRead {
  readonly beat: number;
  readonly answer: (lsnSeen: number | null) => void;
}
