// Reads on nodes that don't lead, observers among them: each level answers what it promises or not at all.

import { countUpTo, lastLsn } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import { PostgresReceiver } from "./postgres-receiver.ts";
import type { Receiver } from "./postgres-types.ts";

interface Waiting {
  readonly read: number;
  /** Answered when this much is applied. */
  readonly lsn: number;
}

export abstract class PostgresReads extends PostgresReceiver {
  #waiting: Waiting[] = [];
  readonly #asked = new Map<number, number>();
  #asks = 0;
  #upToDate = false;

  /** Session: not before what this client has written or read elsewhere. */
  readSession(read: number, least: number): void {
    this.#waiting.push({ read, lsn: least });
    this.appliedMore();
  }

  /** The follower asks its leader for the confirmed commit LSN and waits until it has applied it. */
  readAsked(read: number): void {
    const { receiver } = this;
    if (receiver?.purpose !== "follow" || !receiver.streaming) {
      this.host.finishRead(read, null);
      return;
    }
    this.#asks += 1;
    this.#asked.set(this.#asks, read);
    this.host.send(receiver.leader, { kind: "ask", conn: receiver.conn, ask: this.#asks });
  }

  protected onAsk({ conn, ask }: Extract<StreamMessage, { kind: "ask" }>): void {
    this.readLeader((commit) => {
      const follower = this.followers.find((each) => each.conn === conn);
      if (commit !== null && follower !== undefined) {
        this.host.send(follower.node, { kind: "told", conn, ask, commit });
      }
    });
  }

  protected override told(ask: number, commit: number): void {
    const read = this.#asked.get(ask);
    if (read !== undefined) {
      this.#asked.delete(ask);
      this.#waiting.push({ read, lsn: commit });
      this.appliedMore();
    }
  }

  /** Bounded staleness: only while the last confirmed round is younger than the bound, on this machine's clock. */
  readBounded(read: number, boundMs: number): void {
    const fresh = this.freshRound();
    const late = fresh === null || this.host.nowMs() > fresh.arrivedMs + boundMs;
    this.host.finishRead(read, late ? null : { lsn: this.appliedLsn, freshMs: fresh.trueMs });
  }

  /** The newest round that a quorum has confirmed, if all that it spoke of is applied. */
  protected freshRound(): Receiver["fresh"] {
    const { receiver } = this;
    const { records } = this.disk;
    const complete =
      this.applied >= countUpTo(records, this.limitLsn) &&
      // The commit LSN may have come before the log up to it.
      lastLsn(records) >= Math.floor(this.limitLsn);
    return receiver?.streaming === true && complete ? receiver.fresh : null;
  }

  /** Since it started, it has applied all that was committed at some time since. */
  get upToDate(): boolean {
    this.#upToDate ||= this.leading?.admits === true || this.freshRound() !== null;
    return this.#upToDate;
  }

  protected override appliedMore(): void {
    const ready = this.#waiting.filter(({ lsn }) => lsn <= this.appliedLsn);
    if (ready.length > 0) {
      this.#waiting = this.#waiting.filter(({ lsn }) => lsn > this.appliedLsn);
      for (const { read } of ready) {
        this.host.finishRead(read, { lsn: this.appliedLsn });
      }
    }
  }

  /** The process ends: whoever waits here gets no answer. */
  endReads(): void {
    for (const read of [...this.#waiting.map((each) => each.read), ...this.#asked.values()]) {
      this.host.finishRead(read, null);
    }
    this.#waiting = [];
    this.#asked.clear();
  }
}
