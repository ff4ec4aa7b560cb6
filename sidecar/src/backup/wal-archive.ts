/**
 * Which history the archive holds, and whether it is whole. Pure.
 *
 * A segment gets into the archive only when the quorum has committed all of it, and every later leader has what is
 * committed. So of all timelines with a segment in the archive the highest is the end of the one true history, and its
 * history file names the others. A timeline without any segment may belong to a term that never got its quorum.
 */
import type { ArchiveListing } from "./repository-info.ts";

export const defaultSegmentBytes = 16 * 1024 ** 2;

/** Where each timeline of a history ended; the last one goes on. */
export type Timeline = { readonly id: number; readonly endLsn: bigint | null };

const hex = (value: number | bigint, digits: number): string =>
  value.toString(16).toUpperCase().padStart(digits, "0");

export function historyFileName(timeline: number): string {
  return `${hex(timeline, 8)}.history`;
}

export function timelineOf(segment: string): number {
  return Number.parseInt(segment.slice(0, 8), 16);
}

/** Number of a segment, whatever its timeline. */
export function segmentNumber(segment: string, segmentBytes: number): bigint {
  const perLog = 0x1_0000_0000n / BigInt(segmentBytes);
  return BigInt(`0x${segment.slice(8, 16)}`) * perLog + BigInt(`0x${segment.slice(16, 24)}`);
}

export function segmentName(timeline: number, number: bigint, segmentBytes: number): string {
  const perLog = 0x1_0000_0000n / BigInt(segmentBytes);
  return hex(timeline, 8) + hex(number / perLog, 8) + hex(number % perLog, 8);
}

export function lsnOf(text: string): bigint {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (match === null) throw new RangeError(`"${text}" is no LSN`);
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/** Oldest first, the timeline itself last. */
export function parseHistory(timeline: number, text: string): Timeline[] {
  const parents = text.split("\n").flatMap((line): Timeline[] => {
    const match = /^\s*(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(line);
    return match?.[1] === undefined || match[2] === undefined
      ? []
      : [{ id: Number(match[1]), endLsn: lsnOf(match[2]) }];
  });
  return [...parents, { id: timeline, endLsn: null }];
}

/** The timeline that a restore follows; undefined: the archive is empty. */
export function newestTimeline({ segments }: ArchiveListing): number | undefined {
  return segments.reduce<number | undefined>(
    (highest, { name }) => Math.max(highest ?? 0, timelineOf(name)),
    undefined,
  );
}

/** The segment `number` of a history: the timeline in which a fork lies is the newer one, which copies the older's part. */
export function segmentInHistory(history: readonly Timeline[], number: bigint, segmentBytes: number): string {
  const endOfSegment = (number + 1n) * BigInt(segmentBytes);
  const timeline = history.find(({ endLsn }) => endLsn === null || endLsn >= endOfSegment);
  const id = timeline?.id ?? history.at(-1)?.id;
  if (id === undefined) throw new RangeError("a history has at least one timeline");
  return segmentName(id, number, segmentBytes);
}

export type ArchiveRange = {
  /** Missing, oldest first, at most `maxReported`. */
  readonly missing: readonly string[];
  /** How far one can replay without a gap from the start; null if the first one is missing already. */
  readonly lastWhole: string | null;
};

const maxReported = 1000;

/** All segments of the history from `first` up to the newest that the archive has. */
export function checkRange(
  listing: ArchiveListing,
  history: readonly Timeline[],
  first: string,
  segmentBytes: number,
): ArchiveRange {
  const have = new Set(listing.segments.map(({ name }) => name));
  const inHistory = new Set(history.map(({ id }) => id));
  let last = segmentNumber(first, segmentBytes) - 1n;
  for (const name of have) {
    if (!inHistory.has(timelineOf(name))) continue;
    const number = segmentNumber(name, segmentBytes);
    if (number > last) last = number;
  }
  const missing: string[] = [];
  let lastWhole: string | null = null;
  for (let number = segmentNumber(first, segmentBytes); number <= last; number++) {
    const name = segmentInHistory(history, number, segmentBytes);
    if (have.has(name)) {
      if (missing.length === 0) lastWhole = name;
    } else if (missing.push(name) >= maxReported) break;
  }
  return { missing, lastWhole };
}
