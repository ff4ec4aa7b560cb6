/**
 * Who leads, from what the sidecars say. Pure: statuses and lost streams in, a view out. A leader counts only in the
 * highest term that any node has led in as far as known, and only while it doesn't obey a higher one itself.
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
  readonly appliedLsn: bigint | null;
  readonly quiesced: boolean;
};

export type LeaderTable = {
  readonly statuses: ReadonlyMap<string, SeenStatus>;
  /** No node of a lower term is ever routed to again. */
  readonly highestTerm: number;
};

export const emptyTable: LeaderTable = { statuses: new Map(), highestTerm: 0 };

export function statusSeen(table: LeaderTable, status: SeenStatus): LeaderTable {
  const statuses = new Map(table.statuses);
  statuses.set(status.node, status);
  const leads = status.state === "leader" || status.state === "elected";
  return { statuses, highestTerm: Math.max(table.highestTerm, leads ? status.term : 0) };
}

/** The sidecar doesn't answer any more: what it said last counts no longer. */
export function streamLost(table: LeaderTable, node: string): LeaderTable {
  const statuses = new Map(table.statuses);
  statuses.delete(node);
  return { ...table, statuses };
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

export function viewOf(table: LeaderTable): View {
  const all = [...table.statuses.values()];
  const leader = all.find((status) => leads(table, status));
  const followers: FollowerEndpoint[] = all
    .filter((status) => status.state === "follower" && status.postgres === "running" && status.consistent)
    .filter((status) => status.term === table.highestTerm)
    .map((status) => ({
      node: status.node,
      term: status.term,
      host: status.host,
      port: status.pgPort,
      zone: status.zone,
      appliedLsn: status.appliedLsn ?? 0n,
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

export function sameView(a: View, b: View): boolean {
  const text = (view: View) =>
    JSON.stringify([
      view.leader,
      view.holding,
      view.followers.map((each) => [each.node, each.term, each.host, each.port]),
    ]);
  return text(a) === text(b);
}
