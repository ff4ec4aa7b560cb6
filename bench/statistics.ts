/** Pure: a few figures out of many. */

export interface Summary {
  readonly min: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Nearest rank: the smallest value that at least this share of all values doesn't exceed. */
export function percentile(sorted: readonly number[], share: number): number {
  const index = Math.max(0, Math.ceil(share * sorted.length) - 1);
  return sorted[index] ?? Number.NaN;
}

export function summarize(values: readonly number[]): Summary {
  const sorted = values.map((value) => Math.round(value)).sort((a, b) => a - b);
  return {
    min: percentile(sorted, 0),
    p50: percentile(sorted, 0.5),
    p99: percentile(sorted, 0.99),
    max: percentile(sorted, 1),
  };
}

export function formatRow(title: string, cells: readonly (string | number)[]): string {
  return [title.padEnd(18), ...cells.map((cell) => String(cell).padStart(8))].join("");
}
