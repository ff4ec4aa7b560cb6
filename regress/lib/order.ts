/**
 * Long fork: two readers that see two independent writes in different orders. The checker is pure: it gets what
 * readers saw and says whether all of it fits into one order of the writes.
 */

/** How many writes of each writer a reader saw, at one moment: snapshot[i] is the highest number of writer i. */
export type Snapshot = readonly number[];

export type Fork = {
  readonly a: Snapshot;
  readonly b: Snapshot;
  readonly readerA: string;
  readonly readerB: string;
};

export type Seen = { readonly reader: string; readonly snapshot: Snapshot };

/**
 * Snapshots of one order of commits form a chain: of any two one contains the other. Sorted by how much they contain,
 * neighbours suffice.
 */
export function findForks(seen: readonly Seen[]): Fork[] {
  const total = ({ snapshot }: Seen) => snapshot.reduce((sum, n) => sum + n, 0);
  const sorted = [...seen].sort((x, y) => total(x) - total(y));
  const forks: Fork[] = [];
  for (let i = 1; i < sorted.length; i++) {
    const [x, y] = [sorted[i - 1], sorted[i]];
    if (x === undefined || y === undefined) continue;
    if (x.snapshot.some((n, writer) => n > (y.snapshot[writer] ?? 0)))
      forks.push({ a: x.snapshot, b: y.snapshot, readerA: x.reader, readerB: y.reader });
  }
  return forks;
}
