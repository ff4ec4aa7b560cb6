/** Which follower answers a read. Pure. */
import type { FollowerEndpoint } from "./leader-source.ts";

export type ReadLevel =
  | { readonly kind: "leader" }
  /** What the session wrote or read before is seen. */
  | { readonly kind: "session" }
  /** No older than so many milliseconds; the server sees to it. */
  | { readonly kind: "bounded"; readonly ms: number }
  | { readonly kind: "eventual" };

export const leaderLevel: ReadLevel = { kind: "leader" };

const unitsMs: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** The value of `quorate.read`; what isn't understood means the leader. */
export function parseReadLevel(text: string | undefined): ReadLevel {
  if (text === "session" || text === "eventual") return { kind: text };
  const found = /^bounded\(\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*\)$/.exec(text ?? "");
  if (found === null) return leaderLevel;
  return { kind: "bounded", ms: Math.ceil(Number(found[1]) * (unitsMs[found[2] ?? "ms"] ?? 1)) };
}

export const sameLevel = (a: ReadLevel, b: ReadLevel): boolean =>
  a.kind === b.kind && (a.kind !== "bounded" || (b.kind === "bounded" && a.ms === b.ms));

/** Settings that the server needs for this level: reports of positions, or a limit of age and how long to wait for it. */
function levelSettings(level: ReadLevel, waitMs: number): ReadonlyMap<string, string> {
  switch (level.kind) {
    case "session":
      return new Map([
        ["quorate.report_commit_lsn", "on"],
        ["quorate.report_read_lsn", "on"],
      ]);
    case "bounded":
      return new Map([
        ["quorate.max_staleness", String(level.ms)],
        ["quorate.staleness_timeout", String(waitMs)],
      ]);
    default:
      return new Map();
  }
}

/** What has to be set, or go back to its default (null), when a session's level changes. */
export function levelChanges(
  from: ReadLevel,
  to: ReadLevel,
  waitMs: number,
): readonly { readonly name: string; readonly value: string | null }[] {
  const wanted = levelSettings(to, waitMs);
  const gone = [...levelSettings(from, waitMs).keys()].filter((name) => !wanted.has(name));
  return [
    ...gone.map((name) => ({ name, value: null })),
    ...[...wanted].map(([name, value]) => ({ name, value })),
  ];
}

export type Wish = {
  readonly zone: string | undefined;
  /** The node that the gateway belongs to, if it belongs to one. */
  readonly home?: string | undefined;
  /** What the follower must have applied; it is waited for if need be. */
  readonly lsn: bigint;
  /** Followers that lag by more are not asked. */
  readonly mostLagBytes: number;
  /** The one that answered last. */
  readonly last: string | undefined;
};

/** `busy`: requests under way on that node, by this gateway. */
export function chooseFollower(
  followers: readonly FollowerEndpoint[],
  wish: Wish,
  busy: (follower: FollowerEndpoint) => number,
): FollowerEndpoint | undefined {
  // One that lacks what is wanted and isn't the furthest may stand still: it would be waited for in vain, each time.
  const furthest = followers.reduce((most, { appliedLsn }) => (appliedLsn > most ? appliedLsn : most), 0n);
  let best: FollowerEndpoint | undefined;
  let bestCost = Number.POSITIVE_INFINITY;
  for (const each of followers) {
    if (each.lagBytes > wish.mostLagBytes) continue;
    let cost = busy(each);
    if (wish.home !== undefined && each.node !== wish.home) cost += 2_000_000;
    if (wish.zone !== undefined && each.zone !== wish.zone) cost += 1_000_000;
    if (each.appliedLsn < wish.lsn) cost += each.appliedLsn < furthest ? 1_010 : 1_000;
    if (each.node !== wish.last) cost += 2;
    if (cost < bestCost) {
      best = each;
      bestCost = cost;
    }
  }
  return best;
}
