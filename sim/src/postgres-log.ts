// The log of a simulated Postgres: records, fsync, what is applied, which rulesets it names.

import {
  term as asTerm,
  type ExtensionState,
  formatRuleset,
  lsn,
  type Ruleset,
  type RulesetText,
} from "@quorate/consensus";
import { type Body, countUpTo, type LogRecord, lastLsn } from "./log.ts";
import type { Disk, Follower, Leading, PostgresHost, Receiver } from "./postgres-types.ts";

export abstract class PostgresLog {
  readonly host: PostgresHost;
  readonly disk: Disk;
  state: ExtensionState = "starting";
  fenceTerm = 0;
  inRecovery = true;
  /** Commit LSN as far as this node knows. */
  limitLsn: number;
  applied = 0;
  receiver: Receiver | null = null;
  leading: Leading | null = null;
  followers: Follower[] = [];
  readonly #startedAtMs: number;
  #flushing = false;
  #lookedAt = 0;
  #appliedRuleset: Ruleset | null = null;
  protected electRequest: string | null = null;
  protected fenceRequests: { requestId: string; term: number }[] = [];

  constructor(host: PostgresHost, disk: Disk) {
    this.host = host;
    this.disk = disk;
    this.#startedAtMs = host.nowMs();
    this.limitLsn = lastLsn(disk.records, disk.limit);
    this.applied = disk.limit;
    host.checker.applied(host.id, disk.records, this.applied);
    host.after(host.timing.startMs, () => {
      if (this.state === "starting") {
        this.state = "fenced";
        host.changed();
      }
    });
  }

  protected upMs(): number {
    return this.state === "starting" ? 0 : this.host.nowMs() - this.#startedAtMs;
  }

  protected append(recordTerm: number, body: Body): LogRecord {
    const { records } = this.disk;
    const size = body.kind === "data" ? 1 + this.host.random.below(this.host.timing.maxRecordSize) : 1;
    const prev = records[records.length - 1] ?? null;
    const record: LogRecord = {
      term: recordTerm,
      lsn: lastLsn(records) + size,
      index: records.length,
      prev,
      body,
    };
    this.host.checker.appended(this.host.id, record);
    records.push(record);
    return record;
  }

  protected startFlush(): void {
    if (this.#flushing || this.disk.flushed === this.disk.records.length) {
      return;
    }
    this.#flushing = true;
    const upTo = this.disk.records.length;
    const upToRecord = this.disk.records[upTo - 1] as LogRecord;
    const { timing, random, slowed } = this.host;
    const slow = random.chance(0.05);
    const writeMs = slow ? timing.slowFsyncMs * random.fraction() : timing.fsyncMs * random.between(0.2, 2);
    this.host.after(slowed(writeMs), () => {
      this.#flushing = false;
      // The log may have been truncated and regrown meanwhile: then this flush says nothing about the new records.
      if (this.disk.records[upTo - 1] === upToRecord) {
        this.disk.flushed = Math.max(this.disk.flushed, upTo);
        this.disk.undo = null;
      }
      this.flushedMore();
      this.startFlush();
    });
  }

  protected apply(): void {
    const { records, flushed } = this.disk;
    const count = Math.min(countUpTo(records, this.limitLsn), flushed);
    if (count > this.applied) {
      this.applied = count;
      this.host.checker.applied(this.host.id, records, count);
      this.appliedMore();
    }
    if (this.host.random.chance(0.2)) {
      this.disk.limit = this.applied;
    }
  }

  protected rulesetTexts(from: number, to: number): RulesetText[] {
    return this.rulesetRecords(from, to).map(({ record, ruleset }) => ({
      version: ruleset.version,
      text: formatRuleset(ruleset),
      recordedAt: { term: asTerm(record.term), lsn: lsn(record.lsn) },
    }));
  }

  protected rulesetRecords(from: number, to: number): { record: LogRecord; ruleset: Ruleset }[] {
    const found: { record: LogRecord; ruleset: Ruleset }[] = [];
    for (let index = from; index < to; index += 1) {
      const record = this.disk.records[index] as LogRecord;
      if (record.body.kind === "ruleset") {
        found.push({ record, ruleset: record.body.ruleset });
      }
    }
    return found;
  }

  /** What is applied is never dropped again, so that each record is looked at once. */
  get appliedRuleset(): Ruleset | null {
    for (; this.#lookedAt < this.applied; this.#lookedAt += 1) {
      const { body } = this.disk.records[this.#lookedAt] as LogRecord;
      if (body.kind === "ruleset") {
        this.#appliedRuleset = body.ruleset;
      }
    }
    return this.#appliedRuleset;
  }

  protected refuse(requestId: string, code: string): void {
    this.host.respond(requestId, {
      ok: false,
      code,
      message: `${this.host.id}: ${code} in state ${this.state}`,
    });
  }

  get appliedLsn(): number {
    return lastLsn(this.disk.records, this.applied);
  }

  /** More of the log can be read. */
  protected abstract appliedMore(): void;

  /** More of the log is on the disk. */
  protected abstract flushedMore(): void;
}
