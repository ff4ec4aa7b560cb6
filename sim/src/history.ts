// What the clients saw, checked against the one committed history. Writes are ordered by the log, so a history is
// linearizable exactly when that order agrees with real time: no operation may take effect before one that had
// been answered when it was asked.

import { InvariantViolation } from "./checker.ts";
import type { LogRecord } from "./log.ts";

interface WriteOperation {
  readonly askedMs: number;
  answeredMs: number | null;
}

interface ReadOperation {
  readonly askedMs: number;
  readonly answeredMs: number;
  readonly lsn: number;
}

export class History {
  readonly writes: WriteOperation[] = [];
  readonly #reads: ReadOperation[] = [];
  readonly #bounded: { readonly atMs: number; readonly lsn: number }[] = [];
  #others = 0;
  acknowledged = 0;

  ask(nowMs: number): number {
    this.writes.push({ askedMs: nowMs, answeredMs: null });
    return this.writes.length - 1;
  }

  acknowledge(write: number, nowMs: number): void {
    const operation = this.writes[write];
    if (operation !== undefined && operation.answeredMs === null) {
      operation.answeredMs = nowMs;
      this.acknowledged += 1;
    }
  }

  read(askedMs: number, answeredMs: number, lsn: number): void {
    this.#reads.push({ askedMs, answeredMs, lsn });
  }

  /** Of a client that had written or seen the log up to `session`. */
  sessionRead(session: number, lsn: number): void {
    this.#others += 1;
    if (lsn < session) {
      throw new InvariantViolation(
        "session",
        `a client that knew the log up to ${session} is shown the log up to ${lsn}`,
      );
    }
  }

  /** Must show at least what was answered before that time. */
  boundedRead(freshMs: number, lsn: number): void {
    this.#others += 1;
    this.#bounded.push({ atMs: freshMs, lsn });
  }

  get reads(): number {
    return this.#reads.length + this.#others;
  }

  check(committed: readonly LogRecord[]): void {
    const lsnOf = new Map<number, number>();
    for (const record of committed) {
      if (record.body.kind === "data") {
        if (lsnOf.has(record.body.write)) {
          throw new InvariantViolation("linearizability", `write ${record.body.write} took effect twice`);
        }
        lsnOf.set(record.body.write, record.lsn);
      }
    }
    const answered: { atMs: number; lsn: number }[] = [];
    for (const [write, operation] of this.writes.entries()) {
      const lsn = lsnOf.get(write);
      if (operation.answeredMs !== null) {
        if (lsn === undefined) {
          throw new InvariantViolation(
            "I2",
            `write ${write} was acknowledged and is in no committed history`,
          );
        }
        answered.push({ atMs: operation.answeredMs, lsn });
      }
    }
    const asked: { atMs: number; lsn: number; what: string }[] = [];
    for (const [write, operation] of this.writes.entries()) {
      const lsn = lsnOf.get(write);
      if (lsn !== undefined) {
        asked.push({ atMs: operation.askedMs, lsn, what: `write ${write}` });
      }
    }
    for (const read of this.#reads) {
      asked.push({ atMs: read.askedMs, lsn: read.lsn, what: `a read of ${read.lsn}` });
      answered.push({ atMs: read.answeredMs, lsn: read.lsn });
    }
    for (const { atMs, lsn } of this.#bounded) {
      asked.push({ atMs, lsn, what: `a read with bounded staleness of ${lsn}` });
    }
    answered.sort((a, b) => a.atMs - b.atMs);
    asked.sort((a, b) => a.atMs - b.atMs);
    let seen = 0;
    let at = 0;
    for (const operation of asked) {
      while (at < answered.length && (answered[at]?.atMs ?? 0) < operation.atMs) {
        seen = Math.max(seen, answered[at]?.lsn ?? 0);
        at += 1;
      }
      if (operation.lsn < seen) {
        throw new InvariantViolation(
          "linearizability",
          `${operation.what}, asked at ${operation.atMs.toFixed(1)} ms, comes before LSN ${seen}, answered earlier`,
        );
      }
    }
  }
}
