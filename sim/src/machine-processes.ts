// One machine: its disk and its processes, how they start, freeze, end and lose what was not written.

import {
  term as asTerm,
  type ControlResult,
  type Following,
  initialNode,
  type NodeAnswer,
  type NodeEvent,
  type NodeId,
  type NodeState,
  noTerm,
  type Promised,
  type Ruleset,
} from "@quorate/consensus";
import type { Checker } from "./checker.ts";
import { Clock } from "./clock.ts";
import { Freezer } from "./freezer.ts";
import type { Status } from "./machine-status.ts";
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

/** However slow a disk is, it is not stuck for good. */
export const maxSlowWriteMs = 600;

export type ReplyPath = (answer: NodeAnswer) => void;

export abstract class MachineProcesses {
  readonly id: NodeId;
  protected readonly host: MachineHost;
  protected readonly random: Random;
  disk: Disk | null;
  /** state/promise.json */
  promise: Promised | null;
  /** state/incarnation: which life of this node the data directory is. */
  incarnation: string | null;
  /** The same file: whether this life counts. */
  protected admitted = true;
  /** state/node.json */
  protected following: Following | null = null;
  readonly clock: Clock;
  protected lives = 1;
  protected diskFactor = 1;
  protected slowRound = 0;
  protected appliedRuleset: Ruleset | null = null;
  protected toldFresh = false;
  postgres: Postgres | null = null;
  protected postgresRun = 0;
  protected readonly postgresFreezer: Freezer;
  protected core: NodeState | null = null;
  protected sidecarRun = 0;
  protected readonly sidecarFreezer: Freezer;
  protected machineUp = true;
  protected paths = new Map<string, ReplyPath>();
  protected requests = 0;
  protected persistAtMs = 0;
  protected controlAtMs = 0;
  protected persisting: Promised[] = [];
  protected controls = new Set<string>();
  /** The sidecar talks to its Postgres: an adopted one has to be reached first. */
  protected attached = true;
  /** Commands that wait for that. */
  protected unsent: (() => void)[] = [];
  protected ledTerm = noTerm;
  protected cloning = false;
  protected statusPlanned = false;
  protected seq = 0;
  operatorStopped = false;
  /** For the witness: what was acknowledged from them was acknowledged truly. */
  readonly lostDisks: Disk[] = [];

  constructor(id: NodeId, host: MachineHost, seed: number, kit: MachineKit) {
    this.id = id;
    this.host = host;
    this.random = Random.stream(seed, `machine ${id}`);
    this.disk = kit.disk;
    this.promise = kit.promise;
    this.incarnation = kit.incarnation;
    this.clock = kit.clock ?? new Clock(1);
    this.postgresFreezer = new Freezer(host.queue);
    this.sidecarFreezer = new Freezer(host.queue);
  }

  boot(): void {
    this.machineUp = true;
    this.startSidecar();
  }

  get sidecarUp(): boolean {
    return this.core !== null;
  }

  /** A ruleset was asked for here, and has perhaps not reached Postgres yet. */
  get changesRules(): boolean {
    return [...(this.core?.operations.values() ?? [])].some(
      ({ request }) => request.kind === "changeRuleset",
    );
  }

  get promisedTerm(): number {
    return this.promise?.term ?? 0;
  }

  // ---- processes

  protected afterPostgres(run: number, delayMs: number, action: () => void): void {
    this.host.queue.after(this.clock.worldDelayMs(delayMs), () => this.inPostgres(run, action));
  }

  protected inPostgres(run: number, action: () => void): void {
    if (this.postgresRun === run && this.postgres !== null) {
      this.postgresFreezer.run(() => {
        if (this.postgresRun === run && this.postgres !== null) {
          action();
        }
      });
    }
  }

  protected afterSidecar(delayMs: number, action: () => void): void {
    const run = this.sidecarRun;
    this.host.queue.after(this.clock.worldDelayMs(delayMs), () => this.inSidecar(run, action));
  }

  protected inSidecar(run: number, action: () => void): void {
    if (this.sidecarRun === run && this.core !== null) {
      this.sidecarFreezer.run(() => {
        if (this.sidecarRun === run && this.core !== null) {
          action();
        }
      });
    }
  }

  freezePostgres(ms: number): void {
    if (this.postgres !== null) {
      this.postgresFreezer.freeze(ms);
    }
  }

  freezeSidecar(ms: number): void {
    if (this.core !== null) {
      this.sidecarFreezer.freeze(ms);
    }
  }

  thaw(): void {
    this.postgresFreezer.thaw();
    this.sidecarFreezer.thaw();
  }

  startSidecar(): void {
    if (this.core !== null || !this.machineUp) {
      return;
    }
    this.sidecarRun += 1;
    this.host.checker.promiseRead(this.id, this.promisedTerm);
    const running = this.postgres !== null;
    const { promise, incarnation, admitted, following } = this;
    this.core = initialNode(
      this.id,
      { promise, incarnation, admitted, following },
      running ? "starting" : this.disk === null ? "absent" : "stopped",
    );
    this.toldFresh = false;
    this.appliedRuleset = null;
    this.paths.clear();
    this.controls.clear();
    this.persisting = [];
    if (running) {
      this.adopt();
    } else {
      this.startPostgresSoon();
    }
    this.heartbeat();
  }

  protected heartbeat(): void {
    this.pushStatus();
    this.afterSidecar(400, () => this.heartbeat());
  }

  crashSidecar(powerCut = false): void {
    if (this.core === null) {
      return;
    }
    this.core = null;
    this.sidecarRun += 1;
    this.sidecarFreezer.clear();
    this.cloning = false;
    this.unsent = [];
    // A promise on its way to the disk may have arrived there or not.
    const [writing] = this.persisting;
    if (writing !== undefined && this.random.chance(0.5)) {
      this.promise = writing;
    }
    this.persisting = [];
    if (!powerCut) {
      this.host.reset(this.id);
    }
  }

  protected startPostgresSoon(): void {
    this.afterSidecar(this.random.between(5, 60), () => {
      if (this.postgres === null && this.disk !== null && !this.operatorStopped && !this.cloning) {
        this.startPostgres();
      }
    });
  }

  protected startPostgres(): void {
    const { disk } = this;
    if (disk === null || this.postgres !== null) {
      return;
    }
    this.postgresRun += 1;
    this.toldFresh = false;
    const run = this.postgresRun;
    const { checker, timing, queue } = this.host;
    this.postgres = new Postgres(
      {
        id: this.id,
        checker,
        random: this.random,
        timing,
        nowMs: () => this.clock.monotonicMs(queue.nowMs),
        wallMs: () => this.clock.wallMs(queue.nowMs),
        trueMs: () => queue.nowMs,
        slowed: (writeMs) => Math.max(writeMs, Math.min(maxSlowWriteMs, writeMs * this.diskFactor)),
        after: (delayMs, action) => this.afterPostgres(run, delayMs, action),
        send: (to, message) => this.host.sendStream(this.id, to, message),
        newConnection: () => this.host.newConnection(this.id),
        respond: (requestId, result) => this.controlled(requestId, result),
        changed: () => {
          this.tellApplied();
          this.pushStatus();
        },
        finishWrite: this.host.finishWrite,
        finishRead: this.host.finishRead,
      },
      disk,
    );
    this.feed({ kind: "postgres", state: "running" });
    this.attach();
  }

  /** Until its control socket answers, the sidecar knows only that this Postgres is there: it may lead as before. */
  protected adopt(): void {
    const run = this.postgresRun;
    this.attached = false;
    this.afterSidecar(
      this.random.chance(0.8) ? this.random.between(0.1, 5) : this.random.between(5, 200),
      () => {
        if (this.postgresRun === run && this.postgres !== null) {
          this.attach();
          this.feed({ kind: "postgres", state: "running" });
          this.pushStatus();
        }
      },
    );
  }

  protected attach(): void {
    const { postgres } = this;
    this.attached = true;
    if (postgres !== null) {
      const { state, term } = postgres.view();
      this.tellApplied();
      this.feed({ kind: "attached", fenceTerm: asTerm(postgres.fenceTerm), state, term });
    }
    for (const send of this.unsent.splice(0)) {
      send();
    }
  }

  crashPostgres(powerCut = false): void {
    const { postgres, disk } = this;
    if (postgres === null || disk === null) {
      return;
    }
    this.host.trace(`${this.id} Postgres ends${powerCut ? " (power cut)" : ""}`);
    if (postgres.leading !== null) {
      this.ledTerm = asTerm(postgres.leading.term);
    }
    this.endWrites(postgres);
    this.postgres = null;
    this.postgresRun += 1;
    this.postgresFreezer.clear();
    if (disk.undo !== null && this.random.chance(0.5)) {
      disk.records = disk.undo.records;
      disk.flushed = disk.undo.flushed;
    }
    disk.undo = null;
    if (powerCut) {
      disk.records.length = disk.flushed + this.random.below(disk.records.length - disk.flushed + 1);
    }
    // What the file system holds is on disk once crash recovery has synced it.
    disk.flushed = disk.records.length;
    disk.limit = Math.min(disk.limit, disk.records.length);
    if (!powerCut) {
      for (const follower of postgres.followers) {
        this.host.sendStream(this.id, follower.node, { kind: "closed", conn: follower.conn });
      }
    }
    this.unsent = [];
    this.feed({ kind: "postgres", state: "crashed" });
    for (const requestId of [...this.controls]) {
      this.controls.delete(requestId);
      this.feed({
        kind: "controlled",
        requestId,
        result: { ok: false, code: "postgres_down", message: "Postgres ended" },
      });
    }
    this.pushStatus();
    if (this.core !== null) {
      this.startPostgresSoon();
    }
  }

  protected endWrites(postgres: Postgres): void {
    for (const { write } of postgres.leading?.writes ?? []) {
      this.host.finishWrite(write, null);
    }
    for (const { answer } of postgres.leading?.reads ?? []) {
      answer(null);
    }
    postgres.endReads();
  }

  powerCut(): void {
    this.machineUp = false;
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
    this.following = null;
    this.ledTerm = noTerm;
    this.host.checker.forgot(this.id);
  }

  operatorStop(): void {
    this.operatorStopped = true;
    this.crashPostgres();
  }

  operatorStart(): void {
    if (this.operatorStopped) {
      this.operatorStopped = false;
      this.startPostgresSoon();
    }
  }

  slowDisk(factor: number, ms: number): void {
    this.diskFactor = factor;
    this.slowRound += 1;
    const round = this.slowRound;
    this.host.queue.after(ms, () => {
      if (this.slowRound === round) {
        this.diskFactor = 1;
      }
    });
  }

  healDisk(): void {
    this.slowRound += 1;
    this.diskFactor = 1;
  }

  get up(): boolean {
    return this.machineUp;
  }

  // ---- the sidecar's part (node-host.ts)

  protected abstract feed(event: NodeEvent): void;
  protected abstract controlled(requestId: string, result: ControlResult): void;
  protected abstract tellApplied(): void;
  abstract pushStatus(): void;
}
