// Read leases, as a coordinator has to respect them. A leader answers reads by itself while a set of nodes that holds a
// quorum of its rule has confirmed a heartbeat sent within the lease, on its own monotonic clock. Whoever revokes it
// without recruiting it has recruited a node of every such set, so that the lease can't be extended any more: once it
// has passed, on any clock whose rate is right within the margin, nobody answers reads under an older term.

import type { Attempt, Plan } from "./coordinator-types.ts";
import { eligibleLeaders, type Ruleset } from "./ruleset.ts";
import type { NodeId, Position } from "./types.ts";

/** Both clocks together may be wrong by this share. */
export const leaseDriftMargin = 0.1;

/**
 * For how much longer a leader may answer reads by what a recruited node has confirmed, as that node knows: it confirms
 * nothing any more, and what it confirmed last was sent no later than when it last heard a leader, `heardAgeMs` ago on its
 * own monotonic clock (null: unknown, say because it has connected anew). An isolated leader has used up its lease
 * before anybody misses it. The margin is left to the coordinator, who adds it to what is left.
 */
export function leaseLeftMs(leaseMs: number, heardAgeMs: number | null): number {
  return heardAgeMs === null
    ? leaseMs
    : Math.max(0, Math.ceil(leaseMs - heardAgeMs / (1 + leaseDriftMargin)));
}

/** Who may hold a lease now, as far as can be told. */
function possibleHolders(
  rulesets: readonly Ruleset[],
  newest: Position,
  attempt: Attempt,
): readonly NodeId[] {
  const { leader } = attempt.request;
  // Whoever began a term waited for the leases before; a claim as new as the log is therefore the only one.
  if (leader !== undefined && leader.term >= newest.term) {
    return leader.ended === true ? [] : [leader.node];
  }
  return [...new Set(rulesets.flatMap(eligibleLeaders))];
}

/**
 * From the moment at which the recruitment is valid until the candidate may be told to lead. 0 as soon as whoever may
 * hold a lease has left its term, even too late to be counted: then nobody is left to wait for.
 */
export function leaseWaitMs(plan: Pick<Plan, "rulesets" | "target">, attempt: Attempt): number {
  const holders = possibleHolders(plan.rulesets, plan.target, attempt);
  const left = ({ reports, lateRecruits, down }: Attempt, id: NodeId): boolean =>
    reports.has(id) || lateRecruits.has(id) || down.has(id);
  if (holders.every((id) => left(attempt, id))) {
    return 0;
  }
  const reported = Math.max(0, ...[...attempt.reports.values()].map(({ leaseMs = 0 }) => leaseMs));
  return Math.max(attempt.request.leaseWaitMs ?? 0, Math.ceil(reported * (1 + leaseDriftMargin)));
}
