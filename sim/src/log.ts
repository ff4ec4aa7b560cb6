// Write-ahead log as records. A record is one object shared by all logs that hold it, and points to the one before
// it: two logs agree up to a record exactly when it is the same object. LSNs are plain numbers here.

import type { Ruleset } from "@quorate/consensus";

export type Body =
  | { readonly kind: "begin" }
  | { readonly kind: "data"; readonly write: number }
  | { readonly kind: "ruleset"; readonly ruleset: Ruleset };

export interface LogRecord {
  readonly term: number;
  /** Where it ends. */
  readonly lsn: number;
  /** Counted from 0. */
  readonly index: number;
  readonly prev: LogRecord | null;
  readonly body: Body;
}

export interface Span {
  readonly term: number;
  readonly endLsn: number;
}

export function lastLsn(records: readonly LogRecord[], count: number = records.length): number {
  return count === 0 ? 0 : (records[count - 1] as LogRecord).lsn;
}

export function lastTerm(records: readonly LogRecord[], count: number = records.length): number {
  return count === 0 ? 0 : (records[count - 1] as LogRecord).term;
}

/** How many records end at or before the LSN. */
export function countUpTo(records: readonly LogRecord[], lsn: number): number {
  let low = 0;
  let high = records.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((records[middle] as LogRecord).lsn <= lsn) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/** The timeline history: where each term ends in this log. */
export function historyOf(records: readonly LogRecord[], count: number = records.length): Span[] {
  const spans: Span[] = [];
  for (let index = 0; index < count; index += 1) {
    const record = records[index] as LogRecord;
    const next = records[index + 1];
    if (index + 1 === count || next?.term !== record.term) {
      spans.push({ term: record.term, endLsn: record.lsn });
    }
  }
  return spans;
}

/** The last LSN that both histories share, by terms alone: all that Postgres knows when a follower connects. */
export function forkOf(a: readonly Span[], b: readonly Span[]): number {
  let fork = 0;
  for (let at = 0; at < a.length && at < b.length; at += 1) {
    const left = a[at] as Span;
    const right = b[at] as Span;
    if (left.term !== right.term) {
      break;
    }
    fork = Math.min(left.endLsn, right.endLsn);
    if (left.endLsn !== right.endLsn) {
      break;
    }
  }
  return fork;
}

/** "55567": a log as its records' terms, as the scenarios write it. */
export function formatLog(records: readonly LogRecord[]): string {
  return records.map((record) => `${record.term}${letter(record.body)}`).join(" ");
}

function letter(body: Body): string {
  switch (body.kind) {
    case "begin":
      return ":ok";
    case "data":
      return `:w${body.write}`;
    case "ruleset":
      return `:rs${body.ruleset.version}`;
    default:
      return body satisfies never;
  }
}
