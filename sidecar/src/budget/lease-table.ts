/**
 * Which gateway may have how many connections to this node's Postgres. Pure: renewals and times in, shares out.
 *
 * What must never happen is that the shares that gateways obey, together with the connections that they still have
 * from larger ones, exceed the budget. A gateway goes on by its old share until it has read the new one, so until it
 * says which share it obeys it is counted with the larger of the two (`held`). What one gateway is to give up is
 * another's only when the first has said, in a renewal, that it has done so, or when its lease has expired.
 *
 * A few connections are never lent to those who have some: a gateway that comes, or whose clients come, begins with
 * them and needn't wait until others have given up theirs.
 *
 * The table outlives the sidecar in a file (lease-file.ts). If that can't be read, a gateway gets no more than it says
 * that it obeys, and a new one nothing, until all leases of the time before have expired.
 */
import { fairShares } from "./shares.ts";

/** A share counts so long from its last renewal on; for the gateway from when it asked, which is earlier. */
export const leaseMs = 10_000;
/** More than any cluster has; whoever comes beyond gets nothing. */
const mostHolders = 1_000;

export const keptForNewcomers = (budget: number): number => Math.min(5, Math.floor(budget / 10));

export type Renewal = {
  /** One run of one gateway. */
  readonly holder: string;
  /** The share that it obeys, from an earlier answer; 0: none. */
  readonly obeys: number;
  /** Connections that it has or is opening. */
  readonly open: number;
  /** How many it could use. */
  readonly wants: number;
};

/** What is worth keeping of a holder. */
export type Kept = { readonly holder: string; readonly held: number };

type Wish = Pick<Renewal, "wants" | "open">;

export type Holder = {
  readonly wants: number;
  readonly open: number;
  readonly share: number;
  /** What it might have at most until its next renewal. */
  readonly held: number;
  readonly expiresAtMs: number;
};

export type LeaseTable = {
  readonly leaseMs: number;
  /** Leases of an earlier run of the sidecar may count until then. */
  readonly learningUntilMs: number;
  readonly holders: ReadonlyMap<string, Holder>;
};

export function newLeaseTable(nowMs: number, ofMs = leaseMs): LeaseTable {
  return { leaseMs: ofMs, learningUntilMs: nowMs + ofMs, holders: new Map() };
}

/** Of an earlier run of the sidecar: whoever was in it may still obey his share, as long as a lease holds. */
export function continuedTable(kept: readonly Kept[], nowMs: number, ofMs = leaseMs): LeaseTable {
  const expiresAtMs = nowMs + ofMs;
  const holders = new Map(
    kept.map(({ holder, held }) => [holder, { wants: 0, open: 0, share: held, held, expiresAtMs }]),
  );
  return { leaseMs: ofMs, learningUntilMs: nowMs, holders };
}

/** The table afterwards; the share stands in it. Without a place for it there is none. */
export function renew(table: LeaseTable, renewal: Renewal, budget: number, nowMs: number): LeaseTable {
  const holders = new Map([...table.holders].filter(([, { expiresAtMs }]) => expiresAtMs > nowMs));
  const { holder, obeys, open, wants } = renewal;
  if (!holders.has(holder) && holders.size >= mostHolders) return { ...table, holders };
  holders.delete(holder);
  const others = [...holders.values()];
  const fair = shareOf({ wants, open }, others, budget);
  const free = Math.max(0, budget - others.reduce((sum, { held }) => sum + held, 0));
  const kept = keptForNewcomers(budget);
  const most = nowMs < table.learningUntilMs ? obeys : Math.max(Math.min(free, kept), free - kept);
  const share = Math.min(fair, free, most);
  holders.set(holder, {
    wants,
    open,
    share,
    held: Math.max(obeys, open, share),
    expiresAtMs: nowMs + table.leaseMs,
  });
  return { ...table, holders };
}

/** By wishes; what then is left goes to those who have more open than they need, who so needn't close it. */
function shareOf(one: Wish, others: readonly Wish[], budget: number): number {
  const all = [one, ...others];
  const shares = fairShares(
    budget,
    all.map(({ wants }) => wants),
  );
  const left = budget - shares.reduce((sum, share) => sum + share, 0);
  const more = fairShares(
    left,
    all.map(({ open }, at) => open - (shares[at] ?? 0)),
  );
  return (shares[0] ?? 0) + (more[0] ?? 0);
}

/** It says that it ends. */
export function release(table: LeaseTable, holder: string): LeaseTable {
  const holders = new Map(table.holders);
  holders.delete(holder);
  return { ...table, holders };
}
