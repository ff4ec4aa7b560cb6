// The leading side: followers, the commit LSN under every rule that counts, what waits for it.

import { commitLsn, type Lsn, lsn, type NodeId } from "@quorate/consensus";
import { countUpTo, lastLsn } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import { PostgresLog } from "./postgres-log.ts";
import type { Follower, LeaderRead, Leading } from "./postgres-types.ts";

export abstract class PostgresQuorum extends PostgresLog {
  protected stopLeading(code: string): void {
    const { leading } = this;
    if (leading === null) {
      return;
    }
    this.leading = null;
    if (this.electRequest !== null) {
      this.refuse(this.electRequest, code);
      this.electRequest = null;
    }
    for (const requestId of [leading.pending?.requestId, leading.quiesceRequest]) {
      if (requestId !== null && requestId !== undefined) {
        this.refuse(requestId, code);
      }
    }
    for (const { write } of leading.writes) {
      this.host.finishWrite(write, null);
    }
    for (const { answer } of leading.reads) {
      answer(null);
    }
  }

  protected answerQuiesce(leading: Leading): void {
    if (leading.quiesceRequest !== null && leading.writes.length === 0) {
      const requestId = leading.quiesceRequest;
      leading.quiesceRequest = null;
      this.host.respond(requestId, { ok: true, lsn: lsn(lastLsn(this.disk.records)) });
    }
  }

  write(write: number): void {
    const { leading } = this;
    if (leading === null || !leading.admits || leading.quiesced) {
      this.host.finishWrite(write, null);
      return;
    }
    const record = this.append(leading.term, { kind: "data", write });
    leading.writes.push({ write, record });
    this.startFlush();
  }

  /** A read that waits for one confirmed heartbeat round begun after it. */
  readLeader(answer: LeaderRead["answer"]): void {
    const { leading } = this;
    if (leading === null || !leading.admits) {
      answer(null);
      return;
    }
    leading.reads.push({ beat: leading.beat + 1, answer });
    this.answerReads(leading);
  }

  /** A read that the leader answers by itself while its lease lasts; otherwise it waits for a round. */
  readLeased(answer: LeaderRead["answer"]): void {
    const { leading } = this;
    if (leading?.admits === true && this.leaseHolds(leading)) {
      answer(this.appliedLsn);
    } else {
      this.readLeader(answer);
    }
  }

  /** Counted from when the confirmed round was sent, on this machine's own clock. */
  protected leaseHolds(leading: Leading): boolean {
    const sent = leading.beats.get(this.confirmedBeat(leading));
    return sent !== undefined && this.host.nowMs() < sent.sentMs + this.host.timing.leaseMs;
  }

  /** The commit LSN: every rule that counts, from the ruleset record on the new one too. */
  protected durableLsn(leading: Leading): number {
    const flushed = new Map<NodeId, Lsn>([
      [this.host.id, lsn(lastLsn(this.disk.records, this.disk.flushed))],
    ]);
    for (const follower of this.followers) {
      if (follower.purpose === "follow" && follower.member) {
        flushed.set(follower.node, lsn(follower.flushed));
      }
    }
    return this.underRules(leading, flushed);
  }

  protected underRules(leading: Leading, flushed: ReadonlyMap<NodeId, Lsn>): number {
    let durable = Number(commitLsn(leading.rule, flushed));
    for (const rule of leading.joint) {
      durable = Math.min(durable, Number(commitLsn(rule, flushed)));
    }
    const { pending } = leading;
    if (pending !== null && pending.requestId !== null && durable >= pending.record.lsn) {
      const before = lastLsn(this.disk.records, pending.record.index);
      durable = Math.max(before, Math.min(durable, Number(commitLsn(pending.rule, flushed))));
    }
    return Math.min(durable, lastLsn(this.disk.records, this.disk.flushed));
  }

  protected evaluate(): void {
    const { leading } = this;
    if (leading === null || this.state === "candidate") {
      return;
    }
    const durable = this.durableLsn(leading);
    // Entries of older terms become durable only through the term record (Raft's figure 8).
    if (durable < leading.begin.lsn || durable <= this.limitLsn) {
      this.answerReads(leading);
      return;
    }
    const { records } = this.disk;
    const count = countUpTo(records, durable);
    this.host.checker.committedUpTo(this.host.id, leading.term, records, count);
    // In bytes, it may lie inside a record; what is applied ends with a whole one.
    this.limitLsn = durable;
    this.apply();
    if (this.state === "elected") {
      this.becomeLeader(leading);
    }
    this.settlePending(leading);
    while (leading.writes.length > 0 && (leading.writes[0]?.record.lsn ?? 0) <= this.limitLsn) {
      const done = leading.writes.shift();
      if (done !== undefined) {
        this.host.finishWrite(done.write, done.record.lsn);
      }
    }
    this.answerQuiesce(leading);
    this.answerReads(leading);
    if (this.leading === leading && this.limitLsn < durable) {
      this.evaluate();
    }
  }

  /** The term record is durable and replayed: out of recovery, and the ruleset of the term goes into the log. */
  protected becomeLeader(leading: Leading): void {
    this.state = "leader";
    this.inRecovery = false;
    const record = this.append(leading.term, { kind: "ruleset", ruleset: leading.ruleset });
    leading.pending = { record, rule: leading.rule, requestId: null };
    this.startFlush();
    this.host.changed();
  }

  protected settlePending(leading: Leading): void {
    const { pending } = leading;
    if (pending === null || pending.record.lsn > this.limitLsn) {
      return;
    }
    const { checker, id } = this.host;
    leading.pending = null;
    if (pending.requestId === null) {
      checker.rulesetInForce(id, pending.record, leading.electedUnder);
      leading.joint = [];
      checker.admits(id, leading.term, leading.begin, [leading.rule]);
      leading.admits = true;
    } else {
      checker.rulesetInForce(id, pending.record, [leading.rule, pending.rule]);
      leading.rule = pending.rule;
      this.host.respond(pending.requestId, { ok: true, lsn: lsn(pending.record.lsn) });
    }
    this.host.changed();
  }

  /** The newest round that a quorum has confirmed under every rule that counts. */
  protected confirmedBeat(leading: Leading): number {
    const beats = new Map<NodeId, Lsn>([[this.host.id, lsn(leading.beat)]]);
    for (const follower of this.followers) {
      if (follower.purpose === "follow" && follower.member) {
        beats.set(follower.node, lsn(follower.beat));
      }
    }
    let confirmed = Number(commitLsn(leading.rule, beats));
    for (const rule of leading.joint) {
      confirmed = Math.min(confirmed, Number(commitLsn(rule, beats)));
    }
    return confirmed;
  }

  protected answerReads(leading: Leading): void {
    if (leading.reads.length === 0) {
      return;
    }
    const confirmed = this.confirmedBeat(leading);
    const ready = leading.reads.filter((read) => read.beat <= confirmed);
    leading.reads = leading.reads.filter((read) => read.beat > confirmed);
    for (const { answer } of ready) {
      answer(this.appliedLsn);
    }
  }

  protected heartbeat(leading: Leading): void {
    if (this.leading !== leading) {
      return;
    }
    leading.beat += 1;
    leading.beats.set(leading.beat, { sentMs: this.host.nowMs(), trueMs: this.host.trueMs() });
    leading.beats.delete(leading.beat - 40);
    const beat = this.confirmedBeat(leading);
    const sent = leading.beats.get(beat);
    // Before its term record is durable a leader doesn't know what older leaders have answered.
    const knows = this.limitLsn >= leading.begin.lsn;
    const confirmed = sent === undefined || !knows ? null : { beat, trueMs: sent.trueMs };
    for (const follower of this.followers) {
      if (follower.purpose === "follow") {
        this.host.send(follower.node, {
          kind: "heartbeat",
          conn: follower.conn,
          commit: this.publishable(),
          beat: leading.beat,
          confirmed,
        });
      }
    }
    this.answerReads(leading);
    this.host.after(this.host.timing.heartbeatMs, () => this.heartbeat(leading));
  }

  /** D: nothing before the term record is durable. */
  protected publishable(): number {
    const { leading } = this;
    return leading === null || this.limitLsn < leading.begin.lsn ? 0 : this.limitLsn;
  }

  /** Only what is on this disk is sent; to non-members only what is committed. */
  protected stream(follower: Follower): void {
    const { records, flushed } = this.disk;
    const upTo = follower.member ? flushed : Math.min(flushed, countUpTo(records, this.limitLsn));
    if (upTo <= follower.sent) {
      return;
    }
    const commit = follower.purpose === "follow" ? this.publishable() : 0;
    const { conn } = follower;
    while (follower.sent < upTo) {
      const next = Math.min(upTo, follower.sent + 1 + this.host.random.below(4));
      const batch = records.slice(follower.sent, next);
      follower.sent = next;
      this.host.send(follower.node, { kind: "wal", conn, records: batch, commit });
    }
  }

  protected onAck(ack: Extract<StreamMessage, { kind: "ack" }>): void {
    const follower = this.followers.find((each) => each.conn === ack.conn);
    if (follower === undefined || this.leading === null) {
      return;
    }
    follower.repliedAtMs = this.host.nowMs();
    follower.beat = Math.max(follower.beat, ack.beat);
    follower.flushed = Math.max(follower.flushed, ack.flushed);
    this.evaluate();
    for (const each of this.followers) {
      if (!each.member) {
        this.stream(each);
      }
    }
  }
}
