/** What the main thread and the threads of the workers say to each other. */
import type { Table } from "../admin/console.ts";
import type { NodeSlots } from "../budget/node-limits.ts";
import type { Config } from "../config.ts";
import type { View } from "../route/leader-source.ts";

export type ThreadData = {
  readonly config: Config;
  readonly workerId: number;
  readonly port: number;
  readonly view: View;
  readonly counters: SharedArrayBuffer;
  readonly limits: SharedArrayBuffer;
  readonly slots: NodeSlots;
};

/** A histogram's numbers, which can be added up. */
export type Latency = {
  readonly counts: Float64Array;
  readonly count: number;
  readonly sumMs: number;
};

export type Answer =
  | { readonly table: Table; readonly latency: Latency }
  | { readonly metrics: string }
  | { readonly error: string };

export type ToThread =
  | { readonly kind: "view"; readonly view: View; readonly slots: NodeSlots }
  /** Shares of servers' connections have changed. */
  | { readonly kind: "limits" }
  | { readonly kind: "config"; readonly config: Config }
  | { readonly kind: "cancel"; readonly key: Uint8Array }
  /** Others want server connections, and the limit is reached. */
  | { readonly kind: "make-room" }
  | { readonly kind: "command"; readonly id: number; readonly words: readonly string[] }
  | { readonly kind: "metrics"; readonly id: number }
  /** What came of a command that this thread's console gave. */
  | { readonly kind: "result"; readonly id: number; readonly answer: Table | { readonly error: string } }
  | { readonly kind: "drain" };

export type FromThread =
  | { readonly kind: "listening"; readonly port: number }
  | { readonly kind: "failed"; readonly reason: string }
  | { readonly kind: "cancel"; readonly key: Uint8Array }
  | { readonly kind: "make-room" }
  | { readonly kind: "want-more"; readonly node: string }
  | { readonly kind: "answer"; readonly id: number; readonly answer: Answer }
  /** A console asks for a command to be carried out by all. */
  | { readonly kind: "everywhere"; readonly id: number; readonly words: readonly string[] }
  | { readonly kind: "reload" }
  | { readonly kind: "shutdown" }
  | { readonly kind: "drained" }
  | {
      readonly kind: "log";
      readonly level: "info" | "warn" | "error";
      readonly fields: Record<string, unknown>;
      readonly text: string;
    };
