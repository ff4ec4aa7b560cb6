/** What a pool needs of its worker. */
import type { TimeLimits } from "../session/time-limits.ts";
import type { Plans } from "../text/plans.ts";
import type { Link } from "../transport/transport.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Pool } from "./pool.ts";
import type { Server } from "./server.ts";
import type { Statements } from "./statements.ts";

export type PoolLimits = TimeLimits & {
  readonly size: number;
  readonly clients: number;
  readonly serverIdleMs: number;
  readonly serverLifetimeMs: number;
  readonly waitMs: number;
};

export type PoolHost = {
  readonly plans: Plans;
  readonly statements: Statements;
  readonly readWaitMs: number;
  /** Connections to whoever leads, by the process ids of their servers. */
  readonly processes: Map<number, Server>;
  nowMs(): number;
  connect(endpoint: Endpoint, server: Server, connected: () => void): Link;
  /** Room for one more connection to this node within the gateway's budget. */
  mayConnect(pool: Pool, node: string): boolean;
  /** What sessions begin with has been changed. */
  defaultsChanged(): void;
  /** Who may log in has been changed, or with which password. */
  loginsChanged(): void;
  nextServerId(): number;
  later(delayMs: number, action: () => void): void;
  log(level: "info" | "warn", text: string, fields: Record<string, unknown>): void;
};
