// One machine: its disk, its Postgres, its sidecar. The sidecar's decisions are the real core (stepNode).

import {
  term as asTerm,
  type ControlCommand,
  type ControlResult,
  initialNode,
  type NodeAnswer,
  type NodeEffect,
  type NodeEvent,
  type NodeId,
  type NodeRequest,
  type NodeState,
  noTerm,
  type Promised,
  type Ruleset,
  stepNode,
} from "@quorate/consensus";
import type { Checker } from "./checker.ts";
import { Clock } from "./clock.ts";
import { Freezer } from "./freezer.ts";
import { type Status, statusOf } from "./machine-status.ts";
import type { StreamMessage } from "./messages.ts";
import { Postgres } from "./postgres.ts";
import type { Disk, Seen, Timing } from "./postgres-types.ts";
import type { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";

export interface MachineHost {
  readonly queue: EventQueue;
  readonly checker: Checker;
  readonly timing: Timing;
  readonly sendStream: (from: NodeId, to: string, message: StreamMessage) => void;
  readonly newConnection: (from: NodeId) => string;
  readonly status: (from: NodeId, status: Status) => void;
  readonly reset: (from: NodeId) => void;
  readonly finishWrite: (write: number, lsnOf: number | null) => void;
  readonly finishRead: (read: number, seen: Seen | null) => void;
  /** A consistent copy of that node's log up to its commit LSN, if it can be copied now. */
  readonly copyOf: (from: NodeId) => Disk | null;
  readonly trace: (text: string) => void;
}

/** What a machine brings along besides its disk. */
export interface MachineKit {
  readonly disk: Disk | null;
  readonly promise: Promised | null;
  readonly incarnation: string | null;
  readonly clock?: Clock;
}

type ReplyPath = (answer: NodeAnswer) => void;

export class Machine {
  readonly id: NodeId;
  readonly #host: MachineHost;
  readonly #random: Random;
  disk: Disk | null;
  /** state/promise.json */
  promise: Promised | null;
  /** state/incarnation: which life of this node the data directory is. */
  incarnation: string | null;
  readonly clock: Clock;
  #lives = 1;
  #diskFactor = 1;
  #slowRound = 0;
  #appliedRuleset: Ruleset | null = null;
  postgres: Postgres | null = null;
  #postgresRun = 0;
  readonly #postgresFreezer: Freezer;
  #core: NodeState | null = null;
  #sidecarRun = 0;
  readonly #sidecarFreezer: Freezer;
  #machineUp = true;
  #paths = new Map<string, ReplyPath>();
  #requests = 0;
  #persistAtMs = 0;
  #controlAtMs = 0;
  #persisting: Promised[] = [];
  #controls = new Set<string>();
  #ledTerm = noTerm;
  #cloning = false;
  #statusPlanned = false;
  #seq = 0;
  operatorStopped = false;
  /** For the witness: what was acknowledged from them was acknowledged truly. */
  readonly lostDisks: Disk[] = [];

  constructor(id: NodeId, host: MachineHost, seed: number, kit: MachineKit) {
    this.id = id;
    this.#host = host;
    this.#random = Random.stream(seed, `machine ${id}`);
    this.disk = kit.disk;
    this.promise = kit.promise;
    this.incarnation = kit.incarnation;
    this.clock = kit.clock ?? new Clock(1);
    this.#postgresFreezer = new Freezer(host.queue);
    this.#sidecarFreezer = new Freezer(host.queue);
  }

  boot(): void {
    this.#machineUp = true;
    this.startSidecar();
  }

  get sidecarUp(): boolean {
    return this.#core !== null;
  }

  get promisedTerm(): number {
    return this.promise?.term ?? 0;
  }

  // ---- processes

  #afterPostgres(run: number, delayMs: number, action: () => void): void {
    this.#host.queue.after(this.clock.worldDelayMs(delayMs), () => this.#inPostgres(run, action));
  }

  #inPostgres(run: number, action: () => void): void {
    if (this.#postgresRun === run && this.postgres !== null) {
      this.#postgresFreezer.run(() => {
        if (this.#postgresRun === run && this.postgres !== null) {
          action();
        }
      });
    }
  }

  #afterSidecar(delayMs: number, action: () => void): void {
    const run = this.#sidecarRun;
    this.#host.queue.after(this.clock.worldDelayMs(delayMs), () => this.#inSidecar(run, action));
  }

  #inSidecar(run: number, action: () => void): void {
    if (this.#sidecarRun === run && this.#core !== null) {
      this.#sidecarFreezer.run(() => {
        if (this.#sidecarRun === run && this.#core !== null) {
          action();
        }
      });
    }
  }

  freezePostgres(ms: number): void {
    if (this.postgres !== null) {
      this.#postgresFreezer.freeze(ms);
    }
  }

  freezeSidecar(ms: number): void {
    if (this.#core !== null) {
      this.#sidecarFreezer.freeze(ms);
    }
  }

  thaw(): void {
    this.#postgresFreezer.thaw();
    this.#sidecarFreezer.thaw();
  }

  startSidecar(): void {
    if (this.#core !== null || !this.#machineUp) {
      return;
    }
    this.#sidecarRun += 1;
    this.#host.checker.promiseRead(this.id, this.promisedTerm);
    const running = this.postgres !== null;
    this.#core = initialNode(
      this.id,
      this.promise,
      running ? "running" : this.disk === null ? "absent" : "stopped",
      this.incarnation,
    );
    this.#appliedRuleset = null;
    this.#paths.clear();
    this.#controls.clear();
    this.#persisting = [];
    if (running) {
      this.#attach();
    } else {
      this.#startPostgresSoon();
    }
    this.#heartbeat();
  }

  #heartbeat(): void {
    this.pushStatus();
    this.#afterSidecar(400, () => this.#heartbeat());
  }

  crashSidecar(powerCut = false): void {
    if (this.#core === null) {
      return;
    }
    this.#core = null;
    this.#sidecarRun += 1;
    this.#sidecarFreezer.clear();
    this.#cloning = false;
    // A promise on its way to the disk may have arrived there or not.
    const [writing] = this.#persisting;
    if (writing !== undefined && this.#random.chance(0.5)) {
      this.promise = writing;
    }
    this.#persisting = [];
    if (!powerCut) {
      this.#host.reset(this.id);
    }
  }

  #startPostgresSoon(): void {
    this.#afterSidecar(this.#random.between(5, 60), () => {
      if (this.postgres === null && this.disk !== null && !this.operatorStopped && !this.#cloning) {
        this.#startPostgres();
      }
    });
  }

  #startPostgres(): void {
    const { disk } = this;
    if (disk === null || this.postgres !== null) {
      return;
    }
    this.#postgresRun += 1;
    const run = this.#postgresRun;
    const { checker, timing, queue } = this.#host;
    this.postgres = new Postgres(
      {
        id: this.id,
        checker,
        random: this.#random,
        timing,
        nowMs: () => this.clock.monotonicMs(queue.nowMs),
        wallMs: () => this.clock.wallMs(queue.nowMs),
        trueMs: () => queue.nowMs,
        diskFactor: () => this.#diskFactor,
        after: (delayMs, action) => this.#afterPostgres(run, delayMs, action),
        send: (to, message) => this.#host.sendStream(this.id, to, message),
        newConnection: () => this.#host.newConnection(this.id),
        respond: (requestId, result) => this.#controlled(requestId, result),
        changed: () => {
          this.#tellApplied();
          this.pushStatus();
        },
        finishWrite: this.#host.finishWrite,
        finishRead: this.#host.finishRead,
      },
      disk,
    );
    this.#feed({ kind: "postgres", state: "running" });
    this.#attach();
  }

  #attach(): void {
    const { postgres } = this;
    if (postgres !== null) {
      const leads = postgres.leading === null ? noTerm : asTerm(postgres.leading.term);
      this.#tellApplied();
      this.#feed({ kind: "attached", fenceTerm: asTerm(postgres.fenceTerm), leadsTerm: leads });
    }
  }

  /** The sidecar watches which ruleset Postgres has applied. */
  #tellApplied(): void {
    const ruleset = this.postgres?.appliedRuleset ?? null;
    if (ruleset !== this.#appliedRuleset && this.#core !== null) {
      this.#appliedRuleset = ruleset;
      this.#feed({ kind: "applied", ruleset });
    }
  }

  crashPostgres(powerCut = false): void {
    const { postgres, disk } = this;
    if (postgres === null || disk === null) {
      return;
    }
    this.#host.trace(`${this.id} Postgres ends${powerCut ? " (power cut)" : ""}`);
    if (postgres.leading !== null) {
      this.#ledTerm = asTerm(postgres.leading.term);
    }
    this.#endWrites(postgres);
    this.postgres = null;
    this.#postgresRun += 1;
    this.#postgresFreezer.clear();
    if (disk.undo !== null && this.#random.chance(0.5)) {
      disk.records = disk.undo.records;
      disk.flushed = disk.undo.flushed;
    }
    disk.undo = null;
    if (powerCut) {
      disk.records.length = disk.flushed + this.#random.below(disk.records.length - disk.flushed + 1);
    }
    // What the file system holds is on disk once crash recovery has synced it.
    disk.flushed = disk.records.length;
    disk.limit = Math.min(disk.limit, disk.records.length);
    if (!powerCut) {
      for (const follower of postgres.followers) {
        this.#host.sendStream(this.id, follower.node, { kind: "closed", conn: follower.conn });
      }
    }
    this.#feed({ kind: "postgres", state: "crashed" });
    for (const requestId of [...this.#controls]) {
      this.#controls.delete(requestId);
      this.#feed({
        kind: "controlled",
        requestId,
        result: { ok: false, code: "postgres_down", message: "Postgres ended" },
      });
    }
    this.pushStatus();
    if (this.#core !== null) {
      this.#startPostgresSoon();
    }
  }

  #endWrites(postgres: Postgres): void {
    for (const { write } of postgres.leading?.writes ?? []) {
      this.#host.finishWrite(write, null);
    }
    for (const { answer } of postgres.leading?.reads ?? []) {
      answer(null);
    }
    postgres.endReads();
  }

  powerCut(): void {
    this.#machineUp = false;
    this.crashSidecar(true);
    this.crashPostgres(true);
  }

  /** The disk is gone with all that was on it; the machine comes back with an empty one. */
  loseDisk(): void {
    this.powerCut();
    if (this.disk !== null) {
      this.lostDisks.push(this.disk);
    }
    this.disk = null;
    this.promise = null;
    this.incarnation = null;
    this.#ledTerm = noTerm;
    this.#host.checker.forgot(this.id);
  }

  operatorStop(): void {
    this.operatorStopped = true;
    this.crashPostgres();
  }

  operatorStart(): void {
    if (this.operatorStopped) {
      this.operatorStopped = false;
      this.#startPostgresSoon();
    }
  }

  slowDisk(factor: number, ms: number): void {
    this.#diskFactor = factor;
    this.#slowRound += 1;
    const round = this.#slowRound;
    this.#host.queue.after(ms, () => {
      if (this.#slowRound === round) {
        this.#diskFactor = 1;
      }
    });
  }

  healDisk(): void {
    this.#slowRound += 1;
    this.#diskFactor = 1;
  }

  get up(): boolean {
    return this.#machineUp;
  }

  // ---- messages

  receiveStream(from: string, message: StreamMessage): void {
    const run = this.#postgresRun;
    this.#inPostgres(run, () => this.postgres?.receive(from, message));
  }

  client(action: (postgres: Postgres) => void): boolean {
    if (this.postgres === null) {
      return false;
    }
    this.#inPostgres(this.#postgresRun, () => {
      if (this.postgres !== null) {
        action(this.postgres);
      }
    });
    return true;
  }

  request(request: NodeRequest, reply: ReplyPath): void {
    this.#inSidecar(this.#sidecarRun, () => {
      this.#requests += 1;
      const requestId = `${this.id}-${this.#sidecarRun}-${this.#requests}`;
      this.#paths.set(requestId, reply);
      this.#feed({ kind: "request", requestId, request });
    });
  }

  // ---- the core and its effects

  #feed(event: NodeEvent): void {
    if (this.#core === null) {
      return;
    }
    const { state, effects } = stepNode(this.#core, event);
    this.#core = state;
    for (const effect of effects) {
      this.#perform(effect);
    }
  }

  #perform(effect: NodeEffect): void {
    switch (effect.kind) {
      case "persist":
        this.#persist(effect.requestId, effect.promise);
        return;
      case "control":
        this.#control(effect.requestId, effect.command);
        return;
      case "restartFenced":
        this.#restartFenced(effect.requestId);
        return;
      case "clone":
        this.#clone(effect.requestId, effect.from);
        return;
      case "reply":
        this.#reply(effect.requestId, effect.answer);
        return;
      default:
        effect satisfies never;
    }
  }

  #persist(requestId: string, promise: Promised): void {
    this.#persisting.push(promise);
    const delay = (this.#random.chance(0.03) ? 120 : this.#random.between(0.2, 3)) * this.#diskFactor;
    this.#persistAtMs = Math.max(this.#persistAtMs, this.#host.queue.nowMs + delay);
    const run = this.#sidecarRun;
    const written = (): void => {
      this.#persisting.shift();
      this.promise = promise;
      this.#feed({ kind: "persisted", requestId, ok: true });
      this.pushStatus();
    };
    this.#host.queue.at(this.#persistAtMs, () => this.#inSidecar(run, written));
  }

  #control(requestId: string, command: ControlCommand): void {
    const run = this.#postgresRun;
    this.#controls.add(requestId);
    this.#controlAtMs = Math.max(this.#controlAtMs, this.#host.queue.nowMs + this.#random.between(0.05, 1));
    this.#host.trace(`${this.id} ${command.cmd} ${"term" in command ? command.term : ""}`);
    this.#host.queue.at(this.#controlAtMs, () =>
      this.#inPostgres(run, () => this.postgres?.control(requestId, command)),
    );
  }

  #controlled(requestId: string, result: ControlResult): void {
    this.#afterSidecar(this.#random.between(0.05, 1), () => {
      if (this.#controls.delete(requestId)) {
        this.#feed({ kind: "controlled", requestId, result });
      }
    });
  }

  #restartFenced(requestId: string): void {
    this.crashPostgres();
    this.#afterSidecar(this.#host.timing.startMs, () => {
      this.#startPostgres();
      this.#whenUp(requestId);
    });
  }

  #whenUp(requestId: string, incarnation?: string): void {
    if (this.postgres === null) {
      this.#feed({ kind: "prepared", requestId, ok: false });
    } else if (this.postgres.state === "starting") {
      this.#afterSidecar(5, () => this.#whenUp(requestId, incarnation));
    } else {
      this.#feed({
        kind: "prepared",
        requestId,
        ok: true,
        ...(incarnation === undefined ? {} : { incarnation }),
      });
    }
  }

  #clone(requestId: string, from: NodeId): void {
    this.#cloning = true;
    this.#feed({ kind: "postgres", state: "cloning" });
    const copy = this.#host.copyOf(from);
    // A new life, remembered before the copy begins.
    this.#lives += 1;
    const incarnation = `${this.id}.${this.#lives}`;
    this.incarnation = incarnation;
    this.#afterSidecar(this.#random.between(50, 200), () => {
      this.#cloning = false;
      if (copy === null || this.disk !== null) {
        this.#feed({ kind: "postgres", state: this.disk === null ? "absent" : "stopped" });
        this.#feed({ kind: "prepared", requestId, ok: false });
        return;
      }
      this.disk = copy;
      this.#startPostgres();
      this.#whenUp(requestId, incarnation);
    });
  }

  #reply(requestId: string, answer: NodeAnswer): void {
    const path = this.#paths.get(requestId);
    this.#paths.delete(requestId);
    if (path === undefined) {
      return;
    }
    path(answer);
  }

  // ---- status

  pushStatus(): void {
    this.#tellApplied();
    if (this.#statusPlanned || this.#core === null) {
      return;
    }
    this.#statusPlanned = true;
    const run = this.#sidecarRun;
    this.#host.queue.after(0.5, () => {
      this.#statusPlanned = false;
      this.#inSidecar(run, () => {
        this.#seq += 1;
        this.#host.status(this.id, { ...this.#status(), seq: this.#seq });
      });
    });
  }

  /** As its own sidecar would tell it now. */
  view(): Status["view"] {
    return this.#status().view;
  }

  #status(): Omit<Status, "seq"> {
    const { postgres, disk, incarnation, promisedTerm, operatorStopped } = this;
    if (postgres !== null && postgres.leading !== null) {
      this.#ledTerm = asTerm(postgres.leading.term);
    } else if (postgres?.receiver) {
      this.#ledTerm = noTerm;
    }
    return statusOf({
      postgres,
      disk,
      incarnation,
      promisedTerm: asTerm(promisedTerm),
      operatorStopped,
      cloning: this.#cloning,
      ledTerm: this.#ledTerm,
    });
  }
}
