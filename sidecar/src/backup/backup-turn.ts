/**
 * Whose turn it is to make a backup. Pure: every sidecar computes it from what it sees, and nobody is asked.
 *
 * All nodes that stream from the leader are put in an order: observers, followers, last the leader; equal ones by id,
 * begun at another one for each day so that the work goes round. The first begins when a backup is due, the second
 * `takeoverMs` later if by then no node is seen making one and the repository holds none, and so on. A node whose own
 * attempt at this backup failed counts as having been the last of the order.
 *
 * Two sidecars that see different things may both believe that it is their turn. pgBackRest's lock, which a backup
 * holds on the node that leads, lets one of them through.
 */
import type { Due } from "./backup-schedule.ts";

export type SeenNode = {
  readonly id: string;
  readonly role: "leader" | "follower" | "observer";
  /** Streams from the leader, or leads; and its sidecar, if one can ask it, answers. */
  readonly healthy: boolean;
  /** False: it is healthy, but can't make backups: the repository is on another node's disk. */
  readonly able: boolean;
  /** It makes a backup right now. */
  readonly busy: boolean;
  /** When its last attempt failed; null: it succeeded, or there was none. */
  readonly failedAtMs: number | null;
};

export type TurnInput = {
  readonly self: string;
  readonly nodes: readonly SeenNode[];
  readonly due: Due | null;
  /** When this sidecar first saw that the backup is due. */
  readonly dueSeenAtMs: number;
  readonly nowMs: number;
  readonly takeoverMs: number;
};

export type Turn =
  | { readonly kind: "idle" }
  | { readonly kind: "wait"; readonly why: string; readonly untilMs: number | null }
  | { readonly kind: "run"; readonly leader: string };

const roleOrder = { observer: 0, follower: 1, leader: 2 } as const;
const dayMs = 86_400_000;

/** The order in which nodes try, best first. */
export function turnOrder(nodes: readonly SeenNode[], due: Due): string[] {
  const healthy = nodes.filter((node) => node.healthy && node.able);
  const ids = healthy.map(({ id }) => id).sort();
  const shift = ids.length === 0 ? 0 : Math.floor(due.sinceMs / dayMs) % ids.length;
  const place = (id: string): number => (ids.indexOf(id) - shift + ids.length) % ids.length;
  const failed = (node: SeenNode): boolean => node.failedAtMs !== null && node.failedAtMs >= due.sinceMs;
  return [...healthy]
    .sort(
      (a, b) =>
        Number(failed(a)) - Number(failed(b)) ||
        roleOrder[a.role] - roleOrder[b.role] ||
        place(a.id) - place(b.id),
    )
    .map(({ id }) => id);
}

export function backupTurn(input: TurnInput): Turn {
  const { self, nodes, due, dueSeenAtMs, nowMs, takeoverMs } = input;
  if (due === null) return { kind: "idle" };
  const busy = nodes.find((node) => node.busy);
  if (busy !== undefined) return { kind: "wait", why: `${busy.id} makes a backup`, untilMs: null };
  const leader = nodes.find((node) => node.role === "leader" && node.healthy);
  if (leader === undefined) return { kind: "wait", why: "no leader", untilMs: null };
  const order = turnOrder(nodes, due);
  const rank = order.indexOf(self);
  if (rank < 0)
    return {
      kind: "wait",
      why: "this node doesn't stream from the leader, or doesn't reach the repository",
      untilMs: null,
    };
  const own = nodes.find(({ id }) => id === self);
  const failedAtMs = own?.failedAtMs ?? null;
  const failedThis = failedAtMs !== null && failedAtMs >= due.sinceMs;
  const beginMs = (failedThis ? failedAtMs + takeoverMs : dueSeenAtMs) + rank * takeoverMs;
  if (nowMs >= beginMs) return { kind: "run", leader: leader.id };
  return { kind: "wait", why: `it is the turn of ${order[0]}`, untilMs: beginMs };
}
