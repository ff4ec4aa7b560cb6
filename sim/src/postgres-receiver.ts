// The following side: the connection to a leader (or to the source of a fetch), what comes over it, what is kept of
// it, dropped, applied and acknowledged.

import { term as asTerm, lsn, type NodeId } from "@quorate/consensus";
import { countUpTo, historyOf, lastLsn, lastTerm } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import { PostgresQuorum } from "./postgres-quorum.ts";
import type { Receiver } from "./postgres-types.ts";

export abstract class PostgresReceiver extends PostgresQuorum {
  #heardAtMs: number | null = null;

  protected newReceiver(
    purpose: "follow" | "fetch",
    leader: NodeId,
    term: number,
    member: boolean,
    requestId: string,
    targetLsn: number,
    targetTerm: number,
  ): Receiver {
    return {
      purpose,
      leader,
      term,
      member,
      conn: "",
      streaming: false,
      heardAtMs: this.host.nowMs(),
      beat: 0,
      arrivals: new Map(),
      fresh: null,
      requestId,
      targetLsn,
      targetTerm,
    };
  }

  protected stopReceiver(code: string): void {
    const { receiver } = this;
    if (receiver === null) {
      return;
    }
    if (receiver.conn !== "") {
      this.host.send(receiver.leader, { kind: "closed", conn: receiver.conn });
    }
    this.receiver = null;
    if (receiver.requestId !== "") {
      this.refuse(receiver.requestId, code);
    }
  }

  protected onClosed(conn: string): void {
    const before = this.followers.length;
    this.followers = this.followers.filter((follower) => follower.conn !== conn);
    const { receiver } = this;
    if (receiver !== null && receiver.conn === conn) {
      receiver.conn = "";
      receiver.streaming = false;
      this.reconnectLater(receiver);
    }
    if (before !== this.followers.length || receiver?.conn === "") {
      this.host.changed();
    }
  }

  /** Since a leader's last heartbeat; null: none came over the newest connection. */
  protected heardAgeMs(): number | null {
    return this.#heardAtMs === null ? null : this.host.nowMs() - this.#heardAtMs;
  }

  protected connect(): void {
    const { receiver } = this;
    if (receiver === null || receiver.conn !== "") {
      return;
    }
    this.#heardAtMs = null;
    receiver.conn = this.host.newConnection();
    receiver.streaming = false;
    const { purpose, member, term } = receiver;
    const history = historyOf(this.disk.records);
    this.host.send(receiver.leader, {
      kind: "hello",
      conn: receiver.conn,
      node: this.host.id,
      purpose,
      member,
      term,
      history,
    });
    const { conn } = receiver;
    // wal_receiver_timeout: a connection that says nothing is given up.
    const watch = (): void => {
      if (this.receiver !== receiver || receiver.conn !== conn) {
        return;
      }
      if (this.host.nowMs() - receiver.heardAtMs > 5 * this.host.timing.heartbeatMs) {
        this.host.send(receiver.leader, { kind: "closed", conn });
        this.onClosed(conn);
      } else {
        this.host.after(3 * this.host.timing.heartbeatMs, watch);
      }
    };
    receiver.heardAtMs = this.host.nowMs();
    this.host.after(3 * this.host.timing.heartbeatMs, watch);
  }

  protected reconnectLater(receiver: Receiver): void {
    this.host.after(this.host.timing.reconnectMs, () => {
      if (this.receiver === receiver) {
        this.connect();
      }
    });
  }

  protected onReceived(
    message: Extract<StreamMessage, { kind: "reject" | "welcome" | "wal" | "heartbeat" | "told" }>,
  ): void {
    const { receiver } = this;
    if (receiver === null || receiver.conn !== message.conn) {
      return;
    }
    receiver.heardAtMs = this.host.nowMs();
    if (message.kind === "heartbeat") {
      this.#heardAtMs = receiver.heardAtMs;
    }
    switch (message.kind) {
      case "reject":
        this.onClosed(message.conn);
        return;
      case "welcome":
        receiver.streaming = true;
        this.truncate(message.fork);
        this.acknowledge(receiver);
        this.checkTarget(receiver);
        this.host.changed();
        return;
      case "wal":
        for (const record of message.records) {
          this.host.checker.linked(this.host.id, this.disk.records[this.disk.records.length - 1], record);
          this.disk.records.push(record);
        }
        this.hearCommit(receiver, message.commit);
        this.startFlush();
        return;
      case "heartbeat":
        receiver.beat = Math.max(receiver.beat, message.beat);
        this.hearRound(receiver, message);
        this.hearCommit(receiver, message.commit);
        this.acknowledge(receiver);
        return;
      case "told":
        this.told(message.ask, message.commit);
        return;
      default:
        message satisfies never;
    }
  }

  /** A follower is as fresh as the newest round that was confirmed, counted from that round's arrival here. */
  protected hearRound(
    receiver: Receiver,
    { beat, confirmed }: Extract<StreamMessage, { kind: "heartbeat" }>,
  ): void {
    receiver.arrivals.set(beat, this.host.nowMs());
    receiver.arrivals.delete(beat - 40);
    const arrivedMs = confirmed === null ? undefined : receiver.arrivals.get(confirmed.beat);
    if (confirmed !== null && arrivedMs !== undefined) {
      receiver.fresh = { arrivedMs, trueMs: confirmed.trueMs };
    }
  }

  /** The leader has answered a reader who waits here. */
  protected abstract told(ask: number, commit: number): void;

  /** Drops what the sender's history contradicts. It was never applied, so nothing else is to be done. */
  protected truncate(fork: number): void {
    const { disk } = this;
    const count = countUpTo(disk.records, fork);
    if (count === disk.records.length) {
      return;
    }
    // A commit LSN inside a record says nothing about that record: compare whole ones.
    this.host.checker.truncated(this.host.id, count, countUpTo(disk.records, this.limitLsn));
    disk.undo ??= { records: [...disk.records], flushed: disk.flushed };
    disk.records.length = count;
    disk.flushed = Math.min(disk.flushed, count);
  }

  protected hearCommit(receiver: Receiver, commit: number): void {
    if (receiver.purpose === "follow" && commit > this.limitLsn) {
      this.limitLsn = commit;
      this.apply();
    }
  }

  protected acknowledge(receiver: Receiver): void {
    if (receiver.purpose !== "follow") {
      return;
    }
    const { id, checker } = this.host;
    const flushed = lastLsn(this.disk.records, this.disk.flushed) + this.partOfNext();
    checker.acknowledged(id, receiver.term);
    this.host.send(receiver.leader, { kind: "ack", conn: receiver.conn, flushed, beat: receiver.beat });
  }

  /** A flush may end inside a record. */
  protected partOfNext(): number {
    const { records, flushed } = this.disk;
    const next = records[flushed];
    return next === undefined ? 0 : this.host.random.below(next.lsn - lastLsn(records, flushed));
  }

  protected checkTarget(receiver: Receiver): void {
    const { records, flushed } = this.disk;
    if (receiver.purpose !== "fetch" || this.receiver !== receiver || flushed < records.length) {
      return;
    }
    if (lastLsn(records) === receiver.targetLsn && lastTerm(records) === receiver.targetTerm) {
      this.host.send(receiver.leader, { kind: "closed", conn: receiver.conn });
      this.receiver = null;
      this.state = "fenced";
      this.host.respond(receiver.requestId, {
        ok: true,
        position: { term: asTerm(lastTerm(records)), lsn: lsn(lastLsn(records)) },
      });
      this.host.changed();
    }
  }
}
