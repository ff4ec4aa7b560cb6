/**
 * How the connections of one Postgres are divided among the gateways that want some. Pure.
 *
 * Max-min fair: whoever wants less than an equal part gets what he wants, the others share the rest equally.
 */

/** Whole numbers, in the order of `wants`; their sum is at most `budget`, none is above its wish. */
export function fairShares(budget: number, wants: readonly number[]): number[] {
  const shares = wants.map(() => 0);
  const byWish = wants.map((want, at) => ({ want, at })).sort((a, b) => a.want - b.want || a.at - b.at);
  let left = Math.max(0, Math.floor(budget));
  for (const [index, { want, at }] of byWish.entries()) {
    const share = Math.min(Math.max(0, Math.floor(want)), Math.floor(left / (byWish.length - index)));
    shares[at] = share;
    left -= share;
  }
  return shares;
}
