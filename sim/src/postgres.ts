// A model of a patched Postgres with the extension, as docs/control-socket.md promises it: log, fence, grant,
// term record, quorum, replay limit, restart. It decides nothing that the sidecar should decide.

import {
  term as asTerm,
  type ControlCommand,
  type ControlResult,
  commitLsn,
  type ExtensionState,
  formatRuleset,
  type Lsn,
  lsn,
  type NodeId,
  type NodeView,
  parseRule,
  parseRuleset,
  type Rule,
  type Ruleset,
  type RulesetText,
} from "@quorate/consensus";
import type { Checker } from "./checker.ts";
import { type Body, countUpTo, forkOf, historyOf, type LogRecord, lastLsn, lastTerm } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import type { Random } from "./random.ts";

export interface Timing {
  readonly startMs: number;
  readonly fsyncMs: number;
  readonly slowFsyncMs: number;
  readonly reconnectMs: number;
  readonly heartbeatMs: number;
}

export const defaultTiming: Timing = {
  startMs: 40,
  fsyncMs: 2,
  slowFsyncMs: 150,
  reconnectMs: 40,
  heartbeatMs: 150,
};

/** What survives: the log (its first `flushed` records even a power cut) and the persisted replay limit. */
export interface Disk {
  records: LogRecord[];
  flushed: number;
  /** Minimum recovery point: never beyond the commit LSN. */
  limit: number;
  /** The log before a truncation that no fsync has confirmed yet. */
  undo: { records: LogRecord[]; flushed: number } | null;
}

export interface PostgresHost {
  readonly id: NodeId;
  readonly checker: Checker;
  readonly random: Random;
  readonly timing: Timing;
  readonly nowMs: () => number;
  /** Runs unless the process has ended by then. */
  readonly after: (delayMs: number, run: () => void) => void;
  readonly send: (to: string, message: StreamMessage) => void;
  readonly newConnection: () => string;
  readonly respond: (requestId: string, result: ControlResult) => void;
  readonly changed: () => void;
  readonly finishWrite: (write: number, ok: boolean) => void;
  readonly finishRead: (read: number, lsnSeen: number | null) => void;
}

interface Follower {
  readonly node: NodeId;
  readonly conn: string;
  readonly purpose: "follow" | "fetch";
  readonly member: boolean;
  sent: number;
  flushed: number;
  beat: number;
  repliedAtMs: number;
}

interface Receiver {
  readonly purpose: "follow" | "fetch";
  readonly leader: NodeId;
  readonly term: number;
  readonly member: boolean;
  conn: string;
  streaming: boolean;
  heardAtMs: number;
  beat: number;
  readonly requestId: string;
  readonly targetLsn: number;
  readonly targetTerm: number;
}

interface Leading {
  readonly term: number;
  readonly begin: LogRecord;
  rule: Rule;
  joint: Rule[];
  /** Every rule of the election, for the witness. */
  readonly electedUnder: readonly Rule[];
  /** The ruleset record on the way to durability, and what comes into force with it. */
  pending: { record: LogRecord; rule: Rule; requestId: string | null } | null;
  readonly ruleset: Ruleset;
  admits: boolean;
  quiesced: boolean;
  quiesceRequest: string | null;
  quiesceRound: number;
  writes: { write: number; record: LogRecord }[];
  reads: { read: number; beat: number }[];
  beat: number;
}

export class Postgres {
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
  #flushing = false;
  #electRequest: string | null = null;
  #fenceRequests: { requestId: string; term: number }[] = [];

  constructor(host: PostgresHost, disk: Disk) {
    this.host = host;
    this.disk = disk;
    this.limitLsn = lastLsn(disk.records, disk.limit);
    this.applied = disk.limit;
    host.checker.applied(host.id, disk.records, this.applied);
    host.after(host.timing.startMs, () => {
      this.state = "fenced";
      host.changed();
    });
  }

  // ---- the control socket

  control(requestId: string, command: ControlCommand): void {
    switch (command.cmd) {
      case "fence":
        this.#fence(requestId, command.term);
        return;
      case "follow":
        this.#follow(requestId, command.term, command.leader, command.member);
        return;
      case "fetch":
        this.#fetch(requestId, command);
        return;
      case "elect":
        this.#elect(requestId, command);
        return;
      case "ruleset":
        this.#changeRuleset(requestId, command);
        return;
      case "quiesce":
        this.#quiesce(requestId, command.on, command.timeoutMs);
        return;
      default:
        command satisfies never;
    }
  }

  #refuse(requestId: string, code: string): void {
    this.host.respond(requestId, {
      ok: false,
      code,
      message: `${this.host.id}: ${code} in state ${this.state}`,
    });
  }

  #fence(requestId: string, fenceTerm: number): void {
    if (fenceTerm < this.fenceTerm) {
      this.#refuse(requestId, "stale_term");
      return;
    }
    this.#raiseFence(fenceTerm);
    // The report names only what is on disk: flush first, whatever the receiver has written.
    this.#fenceRequests.push({ requestId, term: fenceTerm });
    this.#startFlush();
    this.#answerFences();
  }

  #raiseFence(fenceTerm: number): void {
    if (fenceTerm <= this.fenceTerm) {
      return;
    }
    this.fenceTerm = fenceTerm;
    if (this.receiver !== null) {
      this.#stopReceiver("superseded");
    }
    if (this.leading !== null) {
      this.#stopLeading("superseded");
    }
    for (const follower of this.followers) {
      this.host.send(follower.node, { kind: "closed", conn: follower.conn });
    }
    this.followers = [];
    if (this.state !== "starting") {
      this.state = "fenced";
    }
    this.host.changed();
  }

  #answerFences(): void {
    if (this.disk.flushed < this.disk.records.length || this.state === "starting") {
      if (this.state === "starting") {
        this.host.after(5, () => this.#answerFences());
      }
      return;
    }
    for (const { requestId, term } of this.#fenceRequests.splice(0)) {
      if (term < this.fenceTerm) {
        this.#refuse(requestId, "superseded");
        continue;
      }
      const { records, flushed } = this.disk;
      this.host.respond(requestId, {
        ok: true,
        report: {
          position: { term: asTerm(lastTerm(records, flushed)), lsn: lsn(lastLsn(records, flushed)) },
          commitLsn: lsn(this.limitLsn),
          ruleset: this.#rulesetTexts(0, this.applied).at(-1) ?? null,
          tailRulesets: this.#rulesetTexts(this.applied, flushed),
          inRecovery: this.inRecovery,
        },
      });
    }
  }

  #rulesetTexts(from: number, to: number): RulesetText[] {
    return this.#rulesetRecords(from, to).map(({ record, ruleset }) => ({
      version: ruleset.version,
      text: formatRuleset(ruleset),
      recordedAt: { term: asTerm(record.term), lsn: lsn(record.lsn) },
    }));
  }

  #rulesetRecords(from: number, to: number): { record: LogRecord; ruleset: Ruleset }[] {
    const found: { record: LogRecord; ruleset: Ruleset }[] = [];
    for (let index = from; index < to; index += 1) {
      const record = this.disk.records[index] as LogRecord;
      if (record.body.kind === "ruleset") {
        found.push({ record, ruleset: record.body.ruleset });
      }
    }
    return found;
  }

  get appliedRuleset(): Ruleset | null {
    return this.#rulesetRecords(0, this.applied).at(-1)?.ruleset ?? null;
  }

  #grantProblem(grantTerm: number): string | null {
    if (grantTerm < this.fenceTerm) {
      return "stale_term";
    }
    if (this.state === "starting") {
      return "not_consistent";
    }
    if (this.leading !== null && this.leading.term === grantTerm) {
      return "wrong_state";
    }
    return this.inRecovery ? null : "restart_required";
  }

  #follow(requestId: string, grantTerm: number, leader: NodeId, member: boolean): void {
    const problem = this.#grantProblem(grantTerm);
    if (problem !== null) {
      this.#refuse(requestId, problem);
      return;
    }
    if (
      this.receiver?.purpose === "follow" &&
      this.receiver.leader === leader &&
      this.receiver.term === grantTerm &&
      this.receiver.member === member
    ) {
      this.host.respond(requestId, { ok: true });
      return;
    }
    this.#raiseFence(grantTerm);
    this.#stopReceiver("superseded");
    this.state = "follower";
    this.receiver = this.#newReceiver("follow", leader, grantTerm, member, "", 0, 0);
    this.#connect();
    this.host.respond(requestId, { ok: true });
    this.host.changed();
  }

  #fetch(requestId: string, command: Extract<ControlCommand, { cmd: "fetch" }>): void {
    const problem = this.#grantProblem(command.term);
    if (problem !== null) {
      this.#refuse(requestId, problem);
      return;
    }
    if (lastTerm(this.disk.records) >= command.term) {
      this.#refuse(requestId, "wrong_state");
      return;
    }
    this.#raiseFence(command.term);
    this.#stopReceiver("superseded");
    this.state = "fetching";
    const { term: targetTerm, lsn: targetLsn } = command.target;
    this.receiver = this.#newReceiver(
      "fetch",
      command.from,
      command.term,
      true,
      requestId,
      Number(targetLsn),
      targetTerm,
    );
    this.#connect();
    this.host.changed();
  }

  #newReceiver(
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
      requestId,
      targetLsn,
      targetTerm,
    };
  }

  #stopReceiver(code: string): void {
    const { receiver } = this;
    if (receiver === null) {
      return;
    }
    if (receiver.conn !== "") {
      this.host.send(receiver.leader, { kind: "closed", conn: receiver.conn });
    }
    this.receiver = null;
    if (receiver.requestId !== "") {
      this.#refuse(receiver.requestId, code);
    }
  }

  #elect(requestId: string, command: Extract<ControlCommand, { cmd: "elect" }>): void {
    const problem = this.#grantProblem(command.term);
    if (problem !== null) {
      this.#refuse(requestId, problem);
      return;
    }
    const ruleset = parseRuleset(command.ruleset.text);
    const rules = [command.rule, ...command.joint].map((text) => parseRule(text));
    const [rule, ...joint] = rules.map((parsed) => (parsed.ok ? parsed.rule : null));
    if (!ruleset.ok || rule === null || rule === undefined || joint.includes(null)) {
      this.#refuse(requestId, "bad_request");
      return;
    }
    const { records } = this.disk;
    if (lastTerm(records) >= command.term) {
      this.#refuse(requestId, "wrong_state");
      return;
    }
    this.#raiseFence(command.term);
    this.#stopReceiver("superseded");
    this.host.checker.elected(this.host.id, command.term, records);
    this.state = "candidate";
    const begin = this.#append(command.term, { kind: "begin" });
    this.leading = {
      term: command.term,
      begin,
      rule,
      joint: joint.filter((item) => item !== null),
      electedUnder: [rule, ...joint.filter((item) => item !== null)],
      pending: null,
      ruleset: ruleset.ruleset,
      admits: false,
      quiesced: false,
      quiesceRequest: null,
      quiesceRound: 0,
      writes: [],
      reads: [],
      beat: 0,
    };
    this.#electRequest = requestId;
    this.#startFlush();
    this.#heartbeat(this.leading);
    this.host.changed();
  }

  #stopLeading(code: string): void {
    const { leading } = this;
    if (leading === null) {
      return;
    }
    this.leading = null;
    if (this.#electRequest !== null) {
      this.#refuse(this.#electRequest, code);
      this.#electRequest = null;
    }
    for (const requestId of [leading.pending?.requestId, leading.quiesceRequest]) {
      if (requestId !== null && requestId !== undefined) {
        this.#refuse(requestId, code);
      }
    }
    for (const { write } of leading.writes) {
      this.host.finishWrite(write, false);
    }
    for (const { read } of leading.reads) {
      this.host.finishRead(read, null);
    }
  }

  #changeRuleset(requestId: string, command: Extract<ControlCommand, { cmd: "ruleset" }>): void {
    const { leading } = this;
    const rule = parseRule(command.rule);
    const ruleset = parseRuleset(command.ruleset.text);
    if (!rule.ok || !ruleset.ok) {
      this.#refuse(requestId, "bad_request");
      return;
    }
    if (leading === null || leading.term !== command.term || !leading.admits || leading.pending !== null) {
      this.#refuse(requestId, "wrong_state");
      return;
    }
    const record = this.#append(leading.term, { kind: "ruleset", ruleset: ruleset.ruleset });
    leading.pending = { record, rule: rule.rule, requestId };
    this.#startFlush();
  }

  #quiesce(requestId: string, on: boolean, timeoutMs: number): void {
    const { leading } = this;
    if (leading === null || !leading.admits) {
      this.#refuse(requestId, "wrong_state");
      return;
    }
    leading.quiesced = on;
    if (!on) {
      this.host.respond(requestId, { ok: true, lsn: lsn(this.limitLsn) });
      return;
    }
    if (leading.quiesceRequest !== null) {
      this.#refuse(leading.quiesceRequest, "superseded");
    }
    leading.quiesceRequest = requestId;
    // Whoever asked may be gone: the leader goes on by itself.
    leading.quiesceRound += 1;
    const round = leading.quiesceRound;
    this.host.after(timeoutMs, () => {
      if (this.leading === leading && leading.quiesceRound === round) {
        leading.quiesced = false;
      }
    });
    this.#answerQuiesce(leading);
  }

  #answerQuiesce(leading: Leading): void {
    if (leading.quiesceRequest !== null && leading.writes.length === 0) {
      const requestId = leading.quiesceRequest;
      leading.quiesceRequest = null;
      this.host.respond(requestId, { ok: true, lsn: lsn(lastLsn(this.disk.records)) });
    }
  }

  // ---- clients

  write(write: number): void {
    const { leading } = this;
    if (leading === null || !leading.admits || leading.quiesced) {
      this.host.finishWrite(write, false);
      return;
    }
    const record = this.#append(leading.term, { kind: "data", write });
    leading.writes.push({ write, record });
    this.#startFlush();
  }

  /** A read that waits for one confirmed heartbeat round begun after it. */
  readLeader(read: number): void {
    const { leading } = this;
    if (leading === null || !leading.admits) {
      this.host.finishRead(read, null);
      return;
    }
    leading.reads.push({ read, beat: leading.beat + 1 });
    this.#answerReads(leading);
  }

  // ---- log and disk

  #append(recordTerm: number, body: Body): LogRecord {
    const { records } = this.disk;
    const size = body.kind === "data" ? 1 + this.host.random.below(3) : 1;
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

  #startFlush(): void {
    if (this.#flushing || this.disk.flushed === this.disk.records.length) {
      return;
    }
    this.#flushing = true;
    const upTo = this.disk.records.length;
    const upToRecord = this.disk.records[upTo - 1] as LogRecord;
    const { timing, random } = this.host;
    this.host.after(
      random.chance(0.05) ? timing.slowFsyncMs * random.fraction() : timing.fsyncMs * random.between(0.2, 2),
      () => {
        this.#flushing = false;
        // The log may have been truncated and regrown meanwhile: then this flush says nothing about the new records.
        if (this.disk.records[upTo - 1] === upToRecord) {
          this.disk.flushed = Math.max(this.disk.flushed, upTo);
          this.disk.undo = null;
        }
        this.#flushed();
        this.#startFlush();
      },
    );
  }

  #flushed(): void {
    const { leading, receiver } = this;
    if (leading !== null) {
      if (this.#electRequest !== null && this.disk.flushed > leading.begin.index) {
        const requestId = this.#electRequest;
        this.#electRequest = null;
        this.state = "elected";
        this.host.respond(requestId, {
          ok: true,
          position: { term: asTerm(leading.term), lsn: lsn(leading.begin.lsn) },
        });
        this.host.changed();
      }
      this.#evaluate();
    }
    if (receiver?.streaming) {
      this.#acknowledge(receiver);
      this.#apply();
      this.#checkTarget(receiver);
    }
    for (const follower of this.followers) {
      this.#stream(follower);
    }
    if (this.#fenceRequests.length > 0) {
      this.#answerFences();
    }
  }

  #apply(): void {
    const { records, flushed } = this.disk;
    const count = Math.min(countUpTo(records, this.limitLsn), flushed);
    if (count > this.applied) {
      this.applied = count;
      this.host.checker.applied(this.host.id, records, count);
    }
    if (this.host.random.chance(0.2)) {
      this.disk.limit = this.applied;
    }
  }

  // ---- the leading side

  /** The commit LSN: every rule that counts, from the ruleset record on the new one too. */
  #durableLsn(leading: Leading): number {
    const flushed = new Map<NodeId, Lsn>([
      [this.host.id, lsn(lastLsn(this.disk.records, this.disk.flushed))],
    ]);
    for (const follower of this.followers) {
      if (follower.purpose === "follow" && follower.member) {
        flushed.set(follower.node, lsn(follower.flushed));
      }
    }
    return this.#underRules(leading, flushed);
  }

  #underRules(leading: Leading, flushed: ReadonlyMap<NodeId, Lsn>): number {
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

  #evaluate(): void {
    const { leading } = this;
    if (leading === null || this.state === "candidate") {
      return;
    }
    const durable = this.#durableLsn(leading);
    // Entries of older terms become durable only through the term record (Raft's figure 8).
    if (durable < leading.begin.lsn || durable <= this.limitLsn) {
      this.#answerReads(leading);
      return;
    }
    const { records } = this.disk;
    const count = countUpTo(records, durable);
    this.host.checker.committedUpTo(this.host.id, leading.term, records, count);
    this.limitLsn = lastLsn(records, count);
    this.#apply();
    if (this.state === "elected") {
      this.#becomeLeader(leading);
    }
    this.#settlePending(leading);
    while (leading.writes.length > 0 && (leading.writes[0]?.record.lsn ?? 0) <= this.limitLsn) {
      const done = leading.writes.shift();
      if (done !== undefined) {
        this.host.finishWrite(done.write, true);
      }
    }
    this.#answerQuiesce(leading);
    this.#answerReads(leading);
    if (this.leading === leading && this.limitLsn < durable) {
      this.#evaluate();
    }
  }

  /** The term record is durable and replayed: out of recovery, and the ruleset of the term goes into the log. */
  #becomeLeader(leading: Leading): void {
    this.state = "leader";
    this.inRecovery = false;
    const record = this.#append(leading.term, { kind: "ruleset", ruleset: leading.ruleset });
    leading.pending = { record, rule: leading.rule, requestId: null };
    this.#startFlush();
    this.host.changed();
  }

  #settlePending(leading: Leading): void {
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

  #answerReads(leading: Leading): void {
    if (leading.reads.length === 0) {
      return;
    }
    const beats = new Map<NodeId, Lsn>([[this.host.id, lsn(leading.beat)]]);
    for (const follower of this.followers) {
      if (follower.purpose === "follow") {
        beats.set(follower.node, lsn(follower.beat));
      }
    }
    let confirmed = Number(commitLsn(leading.rule, beats));
    for (const rule of leading.joint) {
      confirmed = Math.min(confirmed, Number(commitLsn(rule, beats)));
    }
    const open: { read: number; beat: number }[] = [];
    for (const read of leading.reads) {
      if (read.beat <= confirmed) {
        this.host.finishRead(read.read, this.limitLsn);
      } else {
        open.push(read);
      }
    }
    leading.reads = open;
  }

  #heartbeat(leading: Leading): void {
    if (this.leading !== leading) {
      return;
    }
    leading.beat += 1;
    for (const follower of this.followers) {
      if (follower.purpose === "follow") {
        this.host.send(follower.node, {
          kind: "heartbeat",
          conn: follower.conn,
          commit: this.#publishable(),
          beat: leading.beat,
        });
      }
    }
    this.#answerReads(leading);
    this.host.after(this.host.timing.heartbeatMs, () => this.#heartbeat(leading));
  }

  /** D: nothing before the term record is durable. */
  #publishable(): number {
    const { leading } = this;
    return leading === null || this.limitLsn < leading.begin.lsn ? 0 : this.limitLsn;
  }

  // ---- connections

  receive(from: string, message: StreamMessage): void {
    switch (message.kind) {
      case "hello":
        this.#onHello(from as NodeId, message);
        return;
      case "ack":
        this.#onAck(message);
        return;
      case "closed":
        this.#onClosed(message.conn);
        return;
      case "reject":
      case "welcome":
      case "wal":
      case "heartbeat":
        this.#onReceived(message);
        return;
      default:
        message satisfies never;
    }
  }

  #onHello(from: NodeId, hello: Extract<StreamMessage, { kind: "hello" }>): void {
    const leads = this.leading !== null && this.state !== "candidate" && this.leading.term === hello.term;
    const serves =
      hello.purpose === "follow" ? leads : this.state === "fenced" && this.fenceTerm === hello.term;
    if (!serves) {
      this.host.send(from, { kind: "reject", conn: hello.conn });
      return;
    }
    const { records, flushed } = this.disk;
    const fork = forkOf(hello.history, historyOf(records, flushed));
    this.followers = this.followers.filter((follower) => follower.node !== from);
    const follower: Follower = {
      node: from,
      conn: hello.conn,
      purpose: hello.purpose,
      member: hello.member,
      sent: countUpTo(records, fork),
      flushed: 0,
      beat: 0,
      repliedAtMs: this.host.nowMs(),
    };
    this.followers.push(follower);
    this.host.send(from, { kind: "welcome", conn: hello.conn, fork });
    this.#stream(follower);
    this.host.changed();
  }

  /** Only what is on this disk is sent; to non-members only what is committed. */
  #stream(follower: Follower): void {
    const { records, flushed } = this.disk;
    const upTo = follower.member ? flushed : Math.min(flushed, countUpTo(records, this.limitLsn));
    if (upTo <= follower.sent) {
      return;
    }
    const commit = follower.purpose === "follow" ? this.#publishable() : 0;
    const { conn } = follower;
    while (follower.sent < upTo) {
      const next = Math.min(upTo, follower.sent + 1 + this.host.random.below(4));
      const batch = records.slice(follower.sent, next);
      follower.sent = next;
      this.host.send(follower.node, { kind: "wal", conn, records: batch, commit });
    }
  }

  #onAck(ack: Extract<StreamMessage, { kind: "ack" }>): void {
    const follower = this.followers.find((each) => each.conn === ack.conn);
    if (follower === undefined || this.leading === null) {
      return;
    }
    follower.repliedAtMs = this.host.nowMs();
    follower.beat = Math.max(follower.beat, ack.beat);
    follower.flushed = Math.max(follower.flushed, ack.flushed);
    this.#evaluate();
    for (const each of this.followers) {
      if (!each.member) {
        this.#stream(each);
      }
    }
  }

  #onClosed(conn: string): void {
    const before = this.followers.length;
    this.followers = this.followers.filter((follower) => follower.conn !== conn);
    const { receiver } = this;
    if (receiver !== null && receiver.conn === conn) {
      receiver.conn = "";
      receiver.streaming = false;
      this.#reconnectLater(receiver);
    }
    if (before !== this.followers.length || receiver?.conn === "") {
      this.host.changed();
    }
  }

  // ---- the receiving side

  #connect(): void {
    const { receiver } = this;
    if (receiver === null || receiver.conn !== "") {
      return;
    }
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
        this.#onClosed(conn);
      } else {
        this.host.after(3 * this.host.timing.heartbeatMs, watch);
      }
    };
    receiver.heardAtMs = this.host.nowMs();
    this.host.after(3 * this.host.timing.heartbeatMs, watch);
  }

  #reconnectLater(receiver: Receiver): void {
    this.host.after(this.host.timing.reconnectMs, () => {
      if (this.receiver === receiver) {
        this.#connect();
      }
    });
  }

  #onReceived(message: Extract<StreamMessage, { kind: "reject" | "welcome" | "wal" | "heartbeat" }>): void {
    const { receiver } = this;
    if (receiver === null || receiver.conn !== message.conn) {
      return;
    }
    receiver.heardAtMs = this.host.nowMs();
    switch (message.kind) {
      case "reject":
        this.#onClosed(message.conn);
        return;
      case "welcome":
        receiver.streaming = true;
        this.#truncate(message.fork);
        this.#acknowledge(receiver);
        this.#checkTarget(receiver);
        this.host.changed();
        return;
      case "wal":
        for (const record of message.records) {
          this.host.checker.linked(this.host.id, this.disk.records[this.disk.records.length - 1], record);
          this.disk.records.push(record);
        }
        this.#hearCommit(receiver, message.commit);
        this.#startFlush();
        return;
      case "heartbeat":
        receiver.beat = Math.max(receiver.beat, message.beat);
        this.#hearCommit(receiver, message.commit);
        this.#acknowledge(receiver);
        return;
      default:
        message satisfies never;
    }
  }

  /** Drops what the sender's history contradicts. It was never applied, so nothing else is to be done. */
  #truncate(fork: number): void {
    const { disk } = this;
    const count = countUpTo(disk.records, fork);
    if (count === disk.records.length) {
      return;
    }
    this.host.checker.truncated(this.host.id, disk.records, count, this.limitLsn);
    disk.undo ??= { records: [...disk.records], flushed: disk.flushed };
    disk.records.length = count;
    disk.flushed = Math.min(disk.flushed, count);
  }

  #hearCommit(receiver: Receiver, commit: number): void {
    if (receiver.purpose === "follow" && commit > this.limitLsn) {
      this.limitLsn = commit;
      this.#apply();
    }
  }

  #acknowledge(receiver: Receiver): void {
    if (receiver.purpose !== "follow") {
      return;
    }
    const { id, checker } = this.host;
    const flushed = lastLsn(this.disk.records, this.disk.flushed);
    checker.acknowledged(id, receiver.term);
    this.host.send(receiver.leader, { kind: "ack", conn: receiver.conn, flushed, beat: receiver.beat });
  }

  #checkTarget(receiver: Receiver): void {
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

  // ---- what the sidecar sees

  view(): Omit<NodeView, "postgres" | "promisedTerm" | "wasLeader" | "operatorStopped"> & {
    flushedLsn: number;
  } {
    const { receiver, leading } = this;
    const nowMs = this.host.nowMs();
    return {
      state: this.state,
      term: asTerm(leading?.term ?? receiver?.term ?? lastTerm(this.disk.records, this.disk.flushed)),
      inRecovery: this.inRecovery,
      leader: leading !== null ? this.host.id : (receiver?.leader ?? null),
      receiver:
        receiver === null
          ? null
          : {
              state: receiver.streaming ? "streaming" : "connecting",
              timeline: asTerm(receiver.term),
              lastMessageAgeMs: nowMs - receiver.heardAtMs,
            },
      followers: this.followers
        .filter((follower) => follower.purpose === "follow")
        .map((follower) => ({
          node: follower.node,
          member: follower.member,
          timeline: asTerm(leading?.term ?? 0),
          replyAgeMs: nowMs - follower.repliedAtMs,
        })),
      ruleset: this.appliedRuleset,
      flushedLsn: lastLsn(this.disk.records, this.disk.flushed),
    };
  }
}
