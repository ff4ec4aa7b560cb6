// The audit trail: what was decided and done, by whom, why, and what was seen when it was decided. Pure, but for the
// telling at the end.
import type { NodeId, Observation } from "@quorate/consensus";
import type { SidecarClient } from "@quorate/proto";

export interface SeenNode {
  readonly link: string;
  readonly postgres: string | null;
  readonly state: string | null;
  readonly term: number | null;
  readonly promisedTerm: number | null;
  readonly hears: string | null;
}

export interface AuditEvent {
  /** The same on every node that keeps it. */
  readonly id: string;
  readonly at: string;
  readonly by: string;
  readonly kind: "leader_change" | "repair" | "planned" | "backup";
  /** Of the failure table, the operator's verb, or of backups (docs/backup.md). */
  readonly row: string;
  readonly reason: string;
  readonly outcome: string;
  readonly ok: boolean;
  readonly durationMs: number;
  readonly term?: number;
  readonly node?: string;
  /** Of a failure or an alarm, as in errors.md. */
  readonly code?: string;
  readonly inputs?: { readonly rank: number; readonly nodes: Readonly<Record<string, SeenNode>> };
}

/** What the decision was made from. */
export function inputsOf(observation: Observation): NonNullable<AuditEvent["inputs"]> {
  const nodes: Record<string, SeenNode> = {};
  for (const [id, { link, view, viewAtMs }] of observation.nodes) {
    const receiver = view?.receiver;
    const ageMs = Math.round((receiver?.lastMessageAgeMs ?? 0) + observation.nowMs - viewAtMs);
    nodes[id] = {
      link,
      postgres: view?.postgres ?? null,
      state: view?.state ?? null,
      term: view?.term ?? null,
      promisedTerm: view?.promisedTerm ?? null,
      hears: receiver == null ? null : `${view?.leader}: ${receiver.state}, ${ageMs} ms ago`,
    };
  }
  return { rank: observation.rank, nodes };
}

export function parseEvent(line: string): AuditEvent | undefined {
  try {
    const event = JSON.parse(line) as AuditEvent;
    return typeof event.id === "string" && typeof event.at === "string" ? event : undefined;
  } catch {
    return undefined;
  }
}

/** Each once, oldest first. */
export function mergeEvents(perNode: readonly (readonly string[])[]): AuditEvent[] {
  const events = new Map<string, AuditEvent>();
  for (const line of perNode.flat()) {
    const event = parseEvent(line);
    if (event !== undefined) events.set(event.id, event);
  }
  return [...events.values()].sort((a, b) => a.at.localeCompare(b.at) || a.id.localeCompare(b.id));
}

export function formatEvent({ at, id, by, row, reason, outcome, ok, durationMs }: AuditEvent): string {
  return `${at.replace("T", " ").replace("Z", "")} ${ok ? "ok    " : "failed"} ${by} ${row}: ${reason} → ${outcome} (${durationMs} ms) [${id}]`;
}

/** Everything that was seen when it was decided. */
export function explainEvent(event: AuditEvent): string {
  const lines = [formatEvent(event)];
  if (event.inputs === undefined) return `${lines[0]}\n  nothing was recorded of what was seen`;
  lines.push(`  decided from (rank ${event.inputs.rank}):`);
  for (const [id, seen] of Object.entries(event.inputs.nodes)) {
    const what = seen.postgres === null ? "never heard" : `${seen.postgres} ${seen.state ?? ""}`.trim();
    const terms = `term ${seen.term}, promised ${seen.promisedTerm}`;
    lines.push(
      `  ${id}: ${seen.link}; ${what}; ${terms}${seen.hears === null ? "" : `; hears ${seen.hears}`}`,
    );
  }
  return lines.join("\n");
}

const tellTimeoutMs = 3_000;

export interface Recorder {
  readonly by: string;
  /** Unique for this process. */
  readonly coordinator: string;
  readonly nodes: () => readonly NodeId[];
  readonly client: (node: NodeId) => SidecarClient | undefined;
}

export class AuditTrail {
  readonly #recorder: Recorder;
  #count = 0;

  constructor(recorder: Recorder) {
    this.#recorder = recorder;
  }

  /** Tells every node in reach; returns how many have it. */
  async record(event: Omit<AuditEvent, "id" | "at" | "by">): Promise<number> {
    const { by, coordinator, nodes, client } = this.#recorder;
    this.#count += 1;
    const full: AuditEvent = {
      id: `${coordinator}-${this.#count}`,
      at: new Date().toISOString(),
      by,
      ...event,
    };
    const text = JSON.stringify(full);
    const told = await Promise.allSettled(
      nodes().map(
        (node) => client(node)?.record({ event: text }, { deadlineMs: tellTimeoutMs }) ?? Promise.reject(),
      ),
    );
    return told.filter(({ status }) => status === "fulfilled").length;
  }
}
