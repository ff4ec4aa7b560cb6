/** Latencies in buckets that grow by a quarter of a power of two: an addition per value, percentiles within 19 %. */
const perOctave = 4;
const lowestMs = 0.001;
const bucketCount = 128;

export class Histogram {
  readonly counts = new Float64Array(bucketCount);
  count = 0;
  sumMs = 0;

  add(ms: number): void {
    this.count++;
    this.sumMs += ms;
    const bucket =
      ms <= lowestMs ? 0 : Math.min(bucketCount - 1, (Math.log2(ms / lowestMs) * perOctave + 1) | 0);
    (this.counts[bucket] as number)++;
  }

  /** The upper edge of the bucket that holds this share of all values. */
  percentileMs(share: number): number {
    let left = this.count * share;
    for (let bucket = 0; bucket < bucketCount; bucket++) {
      left -= this.counts[bucket] as number;
      if (left <= 0) return this.upperMs(bucket);
    }
    return 0;
  }

  upperMs(bucket: number): number {
    return lowestMs * 2 ** (bucket / perOctave);
  }
}
