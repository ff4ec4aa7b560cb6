/**
 * Who leads, from what the sidecars say. Pure: statuses and lost streams in, a view out. A leader counts only in the
 * highest term that any node has led in as far as known, and only while it doesn't obey a higher one itself.
 *
 * A leader whose sidecar has died goes on serving: its connections show whether it lives. It stays the leader until
 * somebody leads in a higher term. A follower that can't be asked any more is not read.
 */
import type { FollowerEndpoint, View } from "./leader-source.ts";

/** The part of a sidecar's status that routing looks at. */
export type SeenStatus = {
  readonly node: string;
  readonly zone: string;
  readonly host: string;
  readonly pgPort: number;
  readonly postgres: string;
  readonly state: string | null;
  readonly term: number;
  readonly fenceTerm: number;
  readonly promisedTerm: number;
  readonly consistent: boolean;
  readonly leader: string | null;
  readonly commitLsn: bigint | null;
  readonly appliedLsn: bigint | null;
  readonly quiesced: boolean;
};

type Entry = { readonly status: SeenStatus; readonly seenAtMs: number; readonly lost: boolean };

export type LeaderTable = {
  readonly entries: ReadonlyMap<string, Entry>;
  /** No node of a lower term is ever routed to again. */
  readonly highestTerm: number;
};

export const emptyTable: LeaderTable = { entries: new Map(), highestTerm: 0 };

export function statusSeen(table: LeaderTable, status: SeenStatus, nowMs = 0): LeaderTable {
  const entries = new Map(table.entries);
  entries.set(status.node, { status, seenAtMs: nowMs, lost: false });
  const leads = status.state === "leader" || status.state === "elected";
  return { entries, highestTerm: Math.max(table.highestTerm, leads ? status.term : 0) };
}

/** The sidecar doesn't answer any more: what it said last counts only if its node led. */
export function streamLost(table: LeaderTable, node: string): LeaderTable {
  const entry = table.entries.get(node);
  if (entry === undefined) return table;
  const entries = new Map(table.entries);
  if (leads(table, entry.status)) entries.set(node, { ...entry, lost: true });
  else entries.delete(node);
  return { ...table, entries };
}

/** The node is no longer of the cluster. */
export function nodeForgotten(table: LeaderTable, node: string): LeaderTable {
  const entries = new Map(table.entries);
  entries.delete(node);
  return { ...table, entries };
}

function leads(table: LeaderTable, status: SeenStatus): boolean {
  return (
    status.state === "leader" &&
    status.postgres === "running" &&
    status.term === table.highestTerm &&
    status.fenceTerm <= status.term &&
    status.promisedTerm <= status.term
  );
}

function follows(table: LeaderTable, { status, lost }: Entry): boolean {
  return (
    !lost &&
    status.state === "follower" &&
    status.postgres === "running" &&
    status.consistent &&
    status.term === table.highestTerm
  );
}

export function viewOf(table: LeaderTable): View {
  const all = [...table.entries.values()];
  const leader = all.find(({ status }) => leads(table, status))?.status;
  const known = all.reduce((most, { status }) => {
    const lsn = status.commitLsn ?? 0n;
    return lsn > most ? lsn : most;
  }, 0n);
  const followers: FollowerEndpoint[] = all
    .filter((entry) => follows(table, entry))
    .map(({ status, seenAtMs }) => ({
      node: status.node,
      term: status.term,
      host: status.host,
      port: status.pgPort,
      zone: status.zone,
      appliedLsn: status.appliedLsn ?? 0n,
      lagBytes: Number(known - (status.appliedLsn ?? 0n)),
      seenAtMs,
    }));
  return {
    leader:
      leader === undefined
        ? undefined
        : { node: leader.node, term: leader.term, host: leader.host, port: leader.pgPort },
    holding: leader?.quiesced ?? false,
    followers,
  };
}

/** Positions change all the time; nobody needs to be told of those. */
export function sameView(a: View, b: View): boolean {
  const text = (view: View) =>
    JSON.stringify([
      view.leader,
      view.holding,
      view.followers.map((each) => [each.node, each.term, each.host, each.port]),
    ]);
  return text(a) === text(b);
}
