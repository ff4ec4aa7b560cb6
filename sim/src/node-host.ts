// One machine's sidecar: its decisions are the real core (stepNode), its effects go to the disk and to Postgres.

import {
  term as asTerm,
  attachRequestId,
  type ControlCommand,
  type ControlResult,
  type NodeAnswer,
  type NodeEffect,
  type NodeEvent,
  type NodeId,
  type NodeRequest,
  noTerm,
  type Promised,
  stepNode,
} from "@quorate/consensus";
import { MachineProcesses, maxSlowWriteMs, type ReplyPath } from "./machine-processes.ts";
import { type Status, statusOf } from "./machine-status.ts";
import type { StreamMessage } from "./messages.ts";
import type { Postgres } from "./postgres.ts";

export class Machine extends MachineProcesses {
  // ---- messages

  receiveStream(from: string, message: StreamMessage): void {
    const run = this.postgresRun;
    this.inPostgres(run, () => this.postgres?.receive(from, message));
  }

  client(action: (postgres: Postgres) => void): boolean {
    if (this.postgres === null) {
      return false;
    }
    this.inPostgres(this.postgresRun, () => {
      if (this.postgres !== null) {
        action(this.postgres);
      }
    });
    return true;
  }

  request(request: NodeRequest, reply: ReplyPath): void {
    this.inSidecar(this.sidecarRun, () => {
      this.requests += 1;
      const requestId = `${this.id}-${this.sidecarRun}-${this.requests}`;
      this.paths.set(requestId, reply);
      this.feed({ kind: "request", requestId, request });
    });
  }

  // ---- the core and its effects

  protected override feed(event: NodeEvent): void {
    if (this.core === null) {
      return;
    }
    const { state, effects } = stepNode(this.core, event);
    this.core = state;
    this.following = state.following;
    for (const effect of effects) {
      this.perform(effect);
    }
  }

  protected perform(effect: NodeEffect): void {
    switch (effect.kind) {
      case "persist":
        this.persist(effect.requestId, effect.promise);
        return;
      case "control":
        this.control(effect.requestId, effect.command);
        return;
      case "restartFenced":
        this.restartFenced(effect.requestId);
        return;
      case "clone":
        this.clone(effect.requestId, effect.from);
        return;
      case "admit":
        this.admit(effect.incarnation);
        return;
      case "reply":
        this.reply(effect.requestId, effect.answer);
        return;
      default:
        effect satisfies never;
    }
  }

  protected persist(requestId: string, promise: Promised): void {
    this.persisting.push(promise);
    const usual = this.random.chance(0.03) ? 120 : this.random.between(0.2, 3);
    const delay = Math.max(usual, Math.min(maxSlowWriteMs, usual * this.diskFactor));
    this.persistAtMs = Math.max(this.persistAtMs, this.host.queue.nowMs + delay);
    const run = this.sidecarRun;
    const written = (): void => {
      this.persisting.shift();
      this.promise = promise;
      this.feed({ kind: "persisted", requestId, ok: true });
      this.pushStatus();
    };
    this.host.queue.at(this.persistAtMs, () => this.inSidecar(run, written));
  }

  protected control(requestId: string, command: ControlCommand): void {
    this.controls.add(requestId);
    if (this.attached || requestId === attachRequestId) {
      this.sendControl(requestId, command);
    } else {
      this.unsent.push(() => this.sendControl(requestId, command));
    }
  }

  protected sendControl(requestId: string, command: ControlCommand): void {
    const run = this.postgresRun;
    this.controlAtMs = Math.max(this.controlAtMs, this.host.queue.nowMs + this.random.between(0.05, 1));
    this.host.trace(`${this.id} ${command.cmd} ${"term" in command ? command.term : ""}`);
    this.host.queue.at(this.controlAtMs, () =>
      this.inPostgres(run, () => this.postgres?.control(requestId, command)),
    );
  }

  protected override controlled(requestId: string, result: ControlResult): void {
    this.afterSidecar(this.random.between(0.05, 1), () => {
      if (this.controls.delete(requestId)) {
        this.feed({ kind: "controlled", requestId, result });
      }
    });
  }

  protected restartFenced(requestId: string): void {
    this.crashPostgres();
    this.afterSidecar(this.host.timing.startMs, () => {
      this.startPostgres();
      this.whenUp(requestId);
    });
  }

  protected whenUp(requestId: string): void {
    if (this.postgres === null) {
      this.feed({ kind: "prepared", requestId, ok: false });
    } else if (this.postgres.state === "starting") {
      this.afterSidecar(5, () => this.whenUp(requestId));
    } else {
      this.feed({ kind: "prepared", requestId, ok: true });
    }
  }

  protected clone(requestId: string, from: NodeId): void {
    this.cloning = true;
    this.feed({ kind: "postgres", state: "cloning" });
    const copy = this.host.copyOf(from);
    // A new life, remembered before the copy begins.
    this.lives += 1;
    const incarnation = `${this.id}.${this.lives}`;
    this.incarnation = incarnation;
    this.admitted = false;
    this.feed({ kind: "reborn", incarnation, copied: true });
    this.afterSidecar(this.random.between(50, 200), () => {
      this.cloning = false;
      if (copy === null || this.disk !== null) {
        this.feed({ kind: "postgres", state: this.disk === null ? "absent" : "stopped" });
        this.feed({ kind: "prepared", requestId, ok: false });
        return;
      }
      this.disk = copy;
      this.startPostgres();
      this.whenUp(requestId);
    });
  }

  protected admit(incarnation: string): void {
    this.afterSidecar(this.random.between(0.2, 3), () => {
      if (this.incarnation === incarnation) {
        this.admitted = true;
        this.feed({ kind: "admitted", incarnation });
      }
    });
  }

  protected reply(requestId: string, answer: NodeAnswer): void {
    const path = this.paths.get(requestId);
    this.paths.delete(requestId);
    if (path === undefined) {
      return;
    }
    path(answer);
  }

  // ---- status

  /** The sidecar watches which ruleset Postgres has applied. */
  protected override tellApplied(): void {
    const ruleset = this.postgres?.appliedRuleset ?? null;
    const fresh = this.postgres?.upToDate ?? false;
    const news = ruleset !== this.appliedRuleset || fresh !== this.toldFresh;
    if (news && this.core !== null && this.attached) {
      this.appliedRuleset = ruleset;
      this.toldFresh = fresh;
      this.feed({ kind: "applied", ruleset, fresh });
    }
  }

  override pushStatus(): void {
    this.tellApplied();
    if (this.statusPlanned || this.core === null) {
      return;
    }
    this.statusPlanned = true;
    const run = this.sidecarRun;
    this.host.queue.after(0.5, () => {
      this.statusPlanned = false;
      this.inSidecar(run, () => {
        this.seq += 1;
        this.host.status(this.id, { ...this.status(), seq: this.seq });
      });
    });
  }

  /** As its own sidecar would tell it now. */
  view(): Status["view"] {
    return this.status().view;
  }

  protected status(): Omit<Status, "seq"> {
    const { postgres, disk, incarnation, promisedTerm, operatorStopped } = this;
    if (postgres !== null && postgres.leading !== null) {
      this.ledTerm = asTerm(postgres.leading.term);
    } else if (postgres?.receiver) {
      this.ledTerm = noTerm;
    }
    return statusOf({
      postgres,
      attached: this.attached,
      disk,
      incarnation,
      promisedTerm: asTerm(promisedTerm),
      operatorStopped,
      cloning: this.cloning,
      ledTerm: this.ledTerm,
    });
  }
}
