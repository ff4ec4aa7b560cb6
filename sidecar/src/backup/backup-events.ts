/**
 * Backups in the audit trail (`quorate events`): what was made, tested and verified, what failed, which alarm began
 * and ended. Kept by this node, and by every other one in reach, so that it is there when this node is lost.
 */
import type { Logger } from "@quorate/common";
import type { NodeStatus } from "@quorate/proto";
import type { AlarmChange } from "./alarms.ts";
import type { Peers } from "./peers.ts";

/** What backups need of the node that they belong to. */
export type BackupHost = {
  readonly status: () => NodeStatus;
  readonly changed: () => void;
  /** Keeps a line of the audit trail. */
  readonly record: (event: string) => Promise<void>;
};

export type BackupEvent = {
  readonly row:
    | "backup"
    | "restore_test"
    | "verify"
    | "new_node"
    | "outdated_node"
    | "backup_alarm"
    | "backup_alarm_over";
  readonly reason: string;
  readonly outcome: string;
  readonly ok: boolean;
  readonly durationMs: number;
  /** Of an alarm or a failure, as in errors.md. */
  readonly code?: string;
};

/** In the form that coordinators write, too (orchestrator/src/events.ts). Pure. */
export function eventLine(
  event: BackupEvent,
  who: { readonly id: string; readonly node: string; readonly term: number; readonly atMs: number },
): string {
  const { id, node, term, atMs } = who;
  return JSON.stringify({
    id,
    at: new Date(atMs).toISOString(),
    by: node,
    kind: "backup",
    node,
    term,
    ...event,
  });
}

/** Pure. */
export function alarmEvent({ kind, alarm }: AlarmChange, nowMs: number): BackupEvent {
  const { code, message, todo, since } = alarm;
  if (kind === "raised")
    return { row: "backup_alarm", reason: message, outcome: todo, ok: false, durationMs: 0, code };
  const durationMs = Math.max(0, nowMs - Date.parse(since));
  return {
    row: "backup_alarm_over",
    reason: message,
    outcome: `${code} is over`,
    ok: true,
    durationMs,
    code,
  };
}

export class BackupTrail {
  readonly #peers: Pick<Peers, "tell">;
  readonly #logger: Logger;
  readonly #startedAtMs = Date.now();
  #count = 0;

  constructor(peers: Pick<Peers, "tell">, logger: Logger) {
    this.#peers = peers;
    this.#logger = logger;
  }

  /** Keeps it here and with everybody in reach. Never throws: a backup is no worse for it. */
  async tell(host: BackupHost, event: BackupEvent): Promise<void> {
    const status = host.status();
    const id = `${status.node}-backup-${this.#startedAtMs.toString(36)}-${++this.#count}`;
    const rounded = { ...event, durationMs: Math.round(event.durationMs) };
    const line = eventLine(rounded, { id, node: status.node, term: status.term, atMs: Date.now() });
    const kept = host
      .record(line)
      .catch((error: unknown) => this.#logger.warn({ err: error }, "backups: an event could not be kept"));
    await Promise.allSettled([kept, this.#peers.tell(status, line)]);
  }
}
