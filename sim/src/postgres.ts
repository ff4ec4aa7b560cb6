// A model of a patched Postgres with the extension, as docs/control-socket.md promises it: log, fence, grant,
// term record, quorum, replay limit, restart. It decides nothing that the sidecar should decide.

import {
  term as asTerm,
  type ControlCommand,
  leaseLeftMs,
  lsn,
  type NodeId,
  type NodeView,
  parseRule,
  parseRuleset,
  type Ruleset,
} from "@quorate/consensus";
import { countUpTo, forkOf, historyOf, type LogRecord, lastLsn, lastTerm } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import { PostgresReads } from "./postgres-reads.ts";
import type { Follower } from "./postgres-types.ts";

export class Postgres extends PostgresReads {
  control(requestId: string, command: ControlCommand): void {
    switch (command.cmd) {
      case "fence":
        this.fence(requestId, command.term);
        return;
      case "follow":
        this.follow(requestId, command.term, command.leader, command.member);
        return;
      case "fetch":
        this.fetch(requestId, command);
        return;
      case "elect":
        this.elect(requestId, command);
        return;
      case "ruleset":
        this.changeRuleset(requestId, command);
        return;
      case "quiesce":
        this.quiesce(requestId, command.on, command.timeoutMs);
        return;
      default:
        command satisfies never;
    }
  }

  protected fence(requestId: string, fenceTerm: number): void {
    if (fenceTerm < this.fenceTerm) {
      this.refuse(requestId, "stale_term");
      return;
    }
    this.raiseFence(fenceTerm);
    // The report names only what is on disk: flush first, whatever the receiver has written.
    this.fenceRequests.push({ requestId, term: fenceTerm });
    this.startFlush();
    this.answerFences();
  }

  protected raiseFence(fenceTerm: number): void {
    if (fenceTerm <= this.fenceTerm) {
      return;
    }
    this.fenceTerm = fenceTerm;
    if (this.receiver !== null) {
      this.stopReceiver("superseded");
    }
    if (this.leading !== null) {
      this.stopLeading("superseded");
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

  protected answerFences(): void {
    if (this.disk.flushed < this.disk.records.length || this.state === "starting") {
      if (this.state === "starting") {
        this.host.after(5, () => this.answerFences());
      }
      return;
    }
    for (const { requestId, term } of this.fenceRequests.splice(0)) {
      if (term < this.fenceTerm) {
        this.refuse(requestId, "superseded");
        continue;
      }
      const { records, flushed } = this.disk;
      this.host.checker.reported(
        this.host.id,
        lastLsn(records, flushed),
        lastLsn(this.disk.records, this.disk.flushed),
      );
      this.host.respond(requestId, {
        ok: true,
        report: {
          position: { term: asTerm(lastTerm(records, flushed)), lsn: lsn(lastLsn(records, flushed)) },
          commitLsn: lsn(this.limitLsn),
          ruleset: this.rulesetTexts(0, this.applied).at(-1) ?? null,
          tailRulesets: this.rulesetTexts(this.applied, flushed),
          inRecovery: this.inRecovery,
          leaseMs: leaseLeftMs(this.host.timing.leaseMs, this.heardAgeMs()),
          upMs: this.upMs(),
        },
      });
    }
  }

  protected grantProblem(grantTerm: number, mayStart = false): string | null {
    if (grantTerm < this.fenceTerm) {
      return "stale_term";
    }
    if (this.state === "starting" && !mayStart) {
      return "not_consistent";
    }
    if (this.leading !== null && this.leading.term === grantTerm) {
      return "wrong_state";
    }
    return this.inRecovery ? null : "restart_required";
  }

  protected follow(requestId: string, grantTerm: number, leader: NodeId, member: boolean): void {
    const problem = this.grantProblem(grantTerm, true);
    if (problem !== null) {
      this.refuse(requestId, problem);
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
    this.raiseFence(grantTerm);
    this.stopReceiver("superseded");
    this.state = "follower";
    this.receiver = this.newReceiver("follow", leader, grantTerm, member, "", 0, 0);
    this.connect();
    this.host.respond(requestId, { ok: true });
    this.host.changed();
  }

  protected fetch(requestId: string, command: Extract<ControlCommand, { cmd: "fetch" }>): void {
    const problem = this.grantProblem(command.term);
    if (problem !== null) {
      this.refuse(requestId, problem);
      return;
    }
    if (lastTerm(this.disk.records) >= command.term) {
      this.refuse(requestId, "wrong_state");
      return;
    }
    this.raiseFence(command.term);
    this.stopReceiver("superseded");
    this.state = "fetching";
    const { term: targetTerm, lsn: targetLsn } = command.target;
    this.receiver = this.newReceiver(
      "fetch",
      command.from,
      command.term,
      true,
      requestId,
      Number(targetLsn),
      targetTerm,
    );
    this.connect();
    this.host.changed();
  }

  protected elect(requestId: string, command: Extract<ControlCommand, { cmd: "elect" }>): void {
    const problem = this.grantProblem(command.term);
    if (problem !== null) {
      this.refuse(requestId, problem);
      return;
    }
    const ruleset = parseRuleset(command.ruleset.text);
    const rules = [command.rule, ...command.joint].map((text) => parseRule(text));
    const [rule, ...joint] = rules.map((parsed) => (parsed.ok ? parsed.rule : null));
    if (!ruleset.ok || rule === null || rule === undefined || joint.includes(null)) {
      this.refuse(requestId, "bad_request");
      return;
    }
    const { records } = this.disk;
    if (lastTerm(records) >= command.term) {
      this.refuse(requestId, "wrong_state");
      return;
    }
    this.raiseFence(command.term);
    this.stopReceiver("superseded");
    this.host.checker.elected(this.host.id, command.term, records);
    this.state = "candidate";
    const begin = this.append(command.term, { kind: "begin" });
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
      beats: new Map(),
    };
    this.electRequest = requestId;
    this.startFlush();
    this.heartbeat(this.leading);
    this.host.changed();
  }

  protected changeRuleset(requestId: string, command: Extract<ControlCommand, { cmd: "ruleset" }>): void {
    const { leading } = this;
    const rule = parseRule(command.rule);
    const ruleset = parseRuleset(command.ruleset.text);
    if (!rule.ok || !ruleset.ok) {
      this.refuse(requestId, "bad_request");
      return;
    }
    if (leading === null || leading.term !== command.term || !leading.admits || leading.pending !== null) {
      this.refuse(requestId, "wrong_state");
      return;
    }
    const record = this.append(leading.term, { kind: "ruleset", ruleset: ruleset.ruleset });
    leading.pending = { record, rule: rule.rule, requestId };
    this.startFlush();
  }

  protected quiesce(requestId: string, on: boolean, timeoutMs: number): void {
    const { leading } = this;
    if (leading === null || !leading.admits) {
      this.refuse(requestId, "wrong_state");
      return;
    }
    leading.quiesced = on;
    if (!on) {
      this.host.respond(requestId, { ok: true, lsn: lsn(this.limitLsn) });
      return;
    }
    if (leading.quiesceRequest !== null) {
      this.refuse(leading.quiesceRequest, "superseded");
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
    this.answerQuiesce(leading);
  }

  protected override flushedMore(): void {
    const { leading, receiver } = this;
    if (leading !== null) {
      if (this.electRequest !== null && this.disk.flushed > leading.begin.index) {
        const requestId = this.electRequest;
        this.electRequest = null;
        this.state = "elected";
        this.host.respond(requestId, {
          ok: true,
          position: { term: asTerm(leading.term), lsn: lsn(leading.begin.lsn) },
        });
        this.host.changed();
      }
      this.evaluate();
    }
    if (receiver?.streaming) {
      this.acknowledge(receiver);
      this.apply();
      this.checkTarget(receiver);
    }
    for (const follower of this.followers) {
      this.stream(follower);
    }
    if (this.fenceRequests.length > 0) {
      this.answerFences();
    }
  }

  receive(from: string, message: StreamMessage): void {
    switch (message.kind) {
      case "hello":
        this.onHello(from as NodeId, message);
        return;
      case "ack":
        this.onAck(message);
        return;
      case "ask":
        this.onAsk(message);
        return;
      case "closed":
        this.onClosed(message.conn);
        return;
      case "reject":
      case "welcome":
      case "wal":
      case "heartbeat":
      case "told":
        this.onReceived(message);
        return;
      default:
        message satisfies never;
    }
  }

  protected onHello(from: NodeId, hello: Extract<StreamMessage, { kind: "hello" }>): void {
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
    this.stream(follower);
    this.host.changed();
  }

  view(): Omit<NodeView, "postgres" | "promisedTerm" | "wasLeader" | "operatorStopped" | "incarnation"> {
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
          flushedLsn: lsn(follower.flushed),
        })),
      ruleset: this.appliedRuleset,
      pending: leading?.pending?.requestId != null ? pendingRuleset(leading.pending.record) : null,
      flushedLsn: lsn(lastLsn(this.disk.records, this.disk.flushed)),
    };
  }
}

function pendingRuleset({ body }: LogRecord): Ruleset | null {
  return body.kind === "ruleset" ? body.ruleset : null;
}
