import { int32, zeroAt } from "./codec.ts";

/**
 * A hash of what a RowDescription in [start, end) says of the rows: names, types and their modifiers, as PostgreSQL
 * compares them when a plan is made anew. Where columns come from, and their formats, don't count. Never 0.
 */
export function rowShape(bytes: Buffer, start: number, end: number): number {
  let hash = 0x811c9dc5 ^ (bytes[start + 5] as number) ^ ((bytes[start + 6] as number) << 8);
  for (let at = start + 7; at < end; ) {
    const stop = zeroAt(bytes, at, end);
    if (stop < 0 || stop + 19 > end) break;
    for (; at <= stop; at++) hash = Math.imul(hash ^ (bytes[at] as number), 0x01000193);
    hash = Math.imul(hash ^ int32(bytes, stop + 7), 0x01000193);
    hash = Math.imul((hash >>> 15) ^ hash ^ int32(bytes, stop + 13), 0x01000193);
    at = stop + 19;
  }
  return hash === 0 ? 1 : hash;
}
