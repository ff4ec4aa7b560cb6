// What goes over the simulated network between two Postgres processes: one replication connection.

import type { LogRecord, Span } from "./log.ts";

export type StreamMessage =
  | {
      readonly kind: "hello";
      readonly conn: string;
      readonly node: string;
      readonly purpose: "follow" | "fetch";
      readonly member: boolean;
      readonly term: number;
      readonly history: readonly Span[];
    }
  | { readonly kind: "reject"; readonly conn: string }
  | { readonly kind: "welcome"; readonly conn: string; readonly fork: number }
  | {
      readonly kind: "wal";
      readonly conn: string;
      readonly records: readonly LogRecord[];
      readonly commit: number;
    }
  /** Message D on an idle connection; `beat` counts the leader's rounds. */
  | {
      readonly kind: "heartbeat";
      readonly conn: string;
      readonly commit: number;
      readonly beat: number;
      /** The newest round that the quorum has confirmed; `trueMs` is for the witness. */
      readonly confirmed: { readonly beat: number; readonly trueMs: number } | null;
    }
  /** A follower asks for the confirmed commit LSN, for a reader that waits there. */
  | { readonly kind: "ask"; readonly conn: string; readonly ask: number }
  | { readonly kind: "told"; readonly conn: string; readonly ask: number; readonly commit: number }
  | { readonly kind: "ack"; readonly conn: string; readonly flushed: number; readonly beat: number }
  | { readonly kind: "closed"; readonly conn: string };
