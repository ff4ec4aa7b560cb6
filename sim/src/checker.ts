// The all-seeing witness: asserts the invariants of docs/protocol.md after everything that happens.

import { canFulfil, type NodeId, type Rule } from "@quorate/consensus";
import type { LogRecord } from "./log.ts";

export class InvariantViolation extends Error {
  readonly invariant: string;
  constructor(invariant: string, message: string) {
    super(`${invariant}: ${message}`);
    this.invariant = invariant;
  }
}

interface Election {
  readonly term: number;
  readonly node: string;
  readonly log: readonly LogRecord[];
}

/** What the witness may look at: every node's disk. */
export interface Disks {
  /** Ids of the nodes whose disk holds the record, fsynced. */
  holders(record: LogRecord): Set<NodeId>;
}

export class Checker {
  readonly #disks: Disks;
  /** The one history: whatever was committed anywhere, in order, with the term that committed it. */
  readonly committed: LogRecord[] = [];
  readonly #committedIn: number[] = [];
  readonly #writers = new Map<number, string>();
  readonly #positions = new Map<number, LogRecord>();
  readonly #elections: Election[] = [];
  readonly #reported = new Map<string, number>();
  readonly #reportedTo = new Map<string, string>();
  readonly #forgetful = new Set<string>();
  readonly #told = new Map<number, string>();
  elections = 0;

  constructor(disks: Disks) {
    this.#disks = disks;
  }

  fail(invariant: string, message: string): never {
    throw new InvariantViolation(invariant, message);
  }

  /** A node adds a record of its own to its log. */
  appended(node: string, record: LogRecord): void {
    const writer = this.#writers.get(record.term);
    if (writer !== undefined && writer !== node) {
      this.fail("I1", `${node} writes in term ${record.term}, which ${writer} has written in`);
    }
    this.#writers.set(record.term, node);
    const key = record.term * 1_000_000 + record.lsn;
    const other = this.#positions.get(key);
    if (other !== undefined) {
      this.fail("I5", `two records end at ${record.term}:${record.lsn}`);
    }
    this.#positions.set(key, record);
    const reported = this.#reported.get(node) ?? 0;
    if (record.term < reported) {
      this.fail("I4", `${node} writes in term ${record.term} after it reported its promise to ${reported}`);
    }
  }

  /** A log holds `record` behind `before`. */
  linked(node: string, before: LogRecord | undefined, record: LogRecord): void {
    if (record.prev !== (before ?? null)) {
      this.fail("I5", `the log of ${node} differs before ${record.term}:${record.lsn}`);
    }
  }

  /** A node drops its log from `count` records on, of which it knows `known` to be committed. */
  truncated(node: string, count: number, known: number): void {
    if (count < known) {
      this.fail(
        "I3",
        `${node} drops its log to ${count} records, ${known} of which it knows to be committed`,
      );
    }
  }

  /** The leader or elected node of `term` calls its first `count` records committed. */
  committedUpTo(node: string, term: number, records: readonly LogRecord[], count: number): void {
    const shared = Math.min(count, this.committed.length);
    if (shared > 0 && records[shared - 1] !== this.committed[shared - 1]) {
      const record = records[shared - 1] as LogRecord;
      this.fail(
        "I2",
        `${node} commits ${record.term}:${record.lsn} in term ${term}, another history is committed`,
      );
    }
    const last = records[count - 1];
    if (last !== undefined && count > this.committed.length && node !== "bootstrap") {
      if (last.term !== term) {
        this.fail(
          "I2",
          `${node} calls ${last.term}:${last.lsn} committed before its own term ${term} is (figure 8)`,
        );
      }
      // Recruiting a leader revokes it, and must find all that it committed: so that has to be on its own disk.
      if (!this.#disks.holders(last).has(node as NodeId)) {
        this.fail("I2", `${node} calls ${last.term}:${last.lsn} committed without having it on its own disk`);
      }
    }
    for (let index = this.committed.length; index < count; index += 1) {
      const record = records[index] as LogRecord;
      this.committed.push(record);
      this.#committedIn.push(term);
      for (const election of this.#elections) {
        if (election.term > term && election.log[index] !== record) {
          this.fail(
            "I2",
            `${record.term}:${record.lsn} is committed in term ${term} but ${election.node} leads term ${election.term} without it`,
          );
        }
      }
    }
  }

  /** A node shows the effects of its first `count` records to readers. */
  applied(node: string, records: readonly LogRecord[], count: number): void {
    if (count > this.committed.length) {
      this.fail("I3", `${node} applies ${count} records, ${this.committed.length} are committed`);
    }
    if (count > 0 && records[count - 1] !== this.committed[count - 1]) {
      this.fail("I2", `${node} applies a record that another history contradicts`);
    }
  }

  /** A node opens `term` behind its log, given before the term record. */
  elected(node: string, term: number, log: readonly LogRecord[]): void {
    this.elections += 1;
    for (let index = 0; index < this.committed.length; index += 1) {
      const record = this.committed[index] as LogRecord;
      if ((this.#committedIn[index] as number) < term && log[index] !== record) {
        this.fail(
          "I2",
          `${node} opens term ${term} without the committed record ${record.term}:${record.lsn}`,
        );
      }
    }
    this.#elections.push({ term, node, log: [...log] });
  }

  /** A leader lets clients in: its term record must be durable, whatever the leader believes. */
  admits(node: string, term: number, record: LogRecord, rules: readonly Rule[]): void {
    this.durable("I6", `${node} admits clients in term ${term}`, record, rules);
  }

  /** From now on only the new rules count. */
  rulesetInForce(node: string, record: LogRecord, rules: readonly Rule[]): void {
    this.durable("I7", `${node} goes over to a new ruleset`, record, rules);
  }

  durable(invariant: string, what: string, record: LogRecord, rules: readonly Rule[]): void {
    if (this.committed[record.index] === record && this.committed.length > record.index + 1) {
      return;
    }
    const holders = this.#disks.holders(record);
    // A holder may have given the record up for a newer term in the meantime; then that term holds or disproves it.
    if (this.#elections.some((election) => election.term > record.term)) {
      return;
    }
    if (!rules.every((rule) => canFulfil(rule, holders))) {
      this.fail(invariant, `${what} but ${record.term}:${record.lsn} is only on ${[...holders].join(", ")}`);
    }
  }

  recruited(node: string, term: number, coordinator: string, durableTerm: number): void {
    if (durableTerm < term) {
      this.fail("I4", `${node} reports for term ${term} with only term ${durableTerm} on its disk`);
    }
    const key = `${node}/${term}`;
    const other = this.#reportedTo.get(key);
    if (other !== undefined && other !== coordinator && !this.#forgetful.has(node)) {
      this.fail("I4", `${node} gave term ${term} to ${other} and to ${coordinator}`);
    }
    this.#reportedTo.set(key, coordinator);
    this.#reported.set(node, Math.max(term, this.#reported.get(node) ?? 0));
  }

  /** What a node reports must be on its disk: the next leader is chosen by it. */
  reported(node: string, position: number, flushed: number): void {
    if (position > flushed) {
      this.fail("I4", `${node} reports its log up to ${position}, of which ${flushed} is on its disk`);
    }
  }

  /** A coordinator tells a candidate to begin a term: two valid recruitments of one term share a node. */
  told(node: string, term: number): void {
    const other = this.#told.get(term);
    if (other !== undefined && other !== node) {
      this.fail("I1", `${node} is told to lead term ${term}, as ${other} was`);
    }
    this.#told.set(term, node);
  }

  /** A node acknowledges records to the leader of `term`. */
  acknowledged(node: string, term: number): void {
    const reported = this.#reported.get(node) ?? 0;
    if (term < reported) {
      this.fail("I4", `${node} acknowledges in term ${term} after it reported its promise to ${reported}`);
    }
  }

  /** Its disk is gone, and with it the promises: what a later life does is judged by who counts it. */
  forgot(node: string): void {
    this.#reported.delete(node);
    this.#forgetful.add(node);
  }

  promiseRead(node: string, term: number): void {
    const reported = this.#reported.get(node) ?? 0;
    if (term < reported) {
      this.fail("I4", `the disk of ${node} holds a promise to ${term}, it reported ${reported}`);
    }
  }
}
