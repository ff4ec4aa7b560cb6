// One simulated cluster: machines, orchestrators, clients, and a script of faults; a safety phase, then a liveness
// phase in which everything heals and a leader must be established and everybody converge.

import {
  term as asTerm,
  type Call,
  type CallResult,
  coordinatorId,
  type NodeId,
  type NodeRequest,
  type Ruleset,
} from "@quorate/consensus";
import { Checker, InvariantViolation } from "./checker.ts";
import { Clients } from "./clients.ts";
import { Clock } from "./clock.ts";
import { Faults } from "./faults.ts";
import { History } from "./history.ts";
import { type LogRecord, lastLsn } from "./log.ts";
import type { MachineHost } from "./machine-processes.ts";
import type { Status } from "./machine-status.ts";
import type { StreamMessage } from "./messages.ts";
import { Network, type NetworkOptions } from "./network.ts";
import { Machine } from "./node-host.ts";
import { Orchestrator, type OrchestratorHost } from "./orchestrator-host.ts";
import { type Disk, defaultTiming } from "./postgres-types.ts";
import { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";
import { rulesetOf } from "./rulesets.ts";
import { orchestratorNames, type WorldPlan } from "./script.ts";
import { requestOf, resultOf } from "./wire.ts";

export interface RunResult {
  readonly seed: number;
  readonly failure: { readonly invariant: string; readonly message: string; readonly atMs: number } | null;
  readonly events: number;
  readonly elections: number;
  readonly committed: number;
  readonly acknowledged: number;
  readonly reads: number;
  readonly attempts: number;
  /** Hash of everything that was traced: equal for equal runs. */
  readonly traceHash: number;
  readonly trace: readonly string[];
}

/** After the faults end: so long until a leader leads, everybody streams, and the logs are equal. */
const livenessMs = 20_000;
const livenessAttempts = 40;
const maxEvents = 400_000;

export class World {
  readonly plan: WorldPlan;
  readonly queue = new EventQueue();
  readonly network: Network;
  readonly checker: Checker;
  readonly history = new History();
  readonly machines = new Map<string, Machine>();
  readonly orchestrators: Orchestrator[] = [];
  readonly trace: string[] = [];
  #hash = 0x811c9dc5;
  #events = 0;
  #connections = 0;
  #attempts = 0;
  healed = false;
  readonly clients: Clients;
  readonly #clocks = new Map<string, Clock>();
  readonly #faults: Faults;
  readonly #backups: Random;
  #keepTrace: boolean;

  constructor(plan: WorldPlan, keepTrace = false) {
    this.plan = plan;
    this.#keepTrace = keepTrace;
    this.#backups = Random.stream(plan.seed, "backups");
    this.network = new Network(this.queue, plan.seed, this.networkOptions());
    this.clients = new Clients(this);
    this.#faults = new Faults(this);
    this.checker = new Checker({ holders: (record) => this.#holders(record) });
    this.#build();
  }

  networkOptions(): NetworkOptions {
    const { loss, duplicate, stall, stallMs } = this.plan;
    return { loss, duplicate, delayMs: 3, stall, stallMs };
  }

  note(text: string): void {
    const line = `${this.queue.nowMs.toFixed(2)} ${text}`;
    let hash = this.#hash;
    for (let at = 0; at < line.length; at += 1) {
      hash = Math.imul(hash ^ line.charCodeAt(at), 0x01000193);
    }
    this.#hash = hash;
    if (this.#keepTrace) {
      this.trace.push(line);
    }
  }

  #holders(record: LogRecord): Set<NodeId> {
    const holders = new Set<NodeId>();
    for (const machine of this.machines.values()) {
      for (const disk of [machine.disk, ...machine.lostDisks]) {
        if (disk !== null && record.index < disk.flushed && disk.records[record.index] === record) {
          holders.add(machine.id);
        }
      }
    }
    return holders;
  }

  // ---- building

  #build(): void {
    const { plan } = this;
    const founding = plan.nodes
      .filter((member) => plan.founders.includes(member.id))
      .map((member) => ({ ...member, incarnation: `${member.id}.1` }));
    const ruleset = rulesetOf(plan.policy, founding, 1) as Ruleset;
    const begin: LogRecord = { term: 1, lsn: 1, index: 0, prev: null, body: { kind: "begin" } };
    const rules: LogRecord = { term: 1, lsn: 2, index: 1, prev: begin, body: { kind: "ruleset", ruleset } };
    this.checker.elected("bootstrap", 1, []);
    this.checker.appended("bootstrap", begin);
    this.checker.appended("bootstrap", rules);
    this.checker.committedUpTo("bootstrap", 1, [begin, rules], 2);
    const host = this.#machineHost();
    for (const member of plan.nodes) {
      const founder = plan.founders.includes(member.id);
      const disk: Disk | null = founder
        ? { records: [begin, rules], flushed: 2, limit: 2, undo: null }
        : null;
      const promise = founder ? { term: asTerm(1), coordinator: coordinatorId("bootstrap") } : null;
      const incarnation = founder ? `${member.id}.1` : null;
      const kit = { disk, promise, incarnation, clock: this.clock(member.id) };
      this.machines.set(member.id, new Machine(member.id, host, plan.seed, kit));
    }
    const orchestratorHost = this.#orchestratorHost();
    for (const [index, name] of orchestratorNames(plan.orchestrators).entries()) {
      const zone = ["a", "b", "c"][index] ?? "a";
      const orchestrator = new Orchestrator(name, zone, orchestratorHost, plan.seed, this.clock(name));
      orchestrator.automatic = plan.automatic;
      orchestrator.pace = plan.pace;
      this.orchestrators.push(orchestrator);
    }
  }

  /** Each machine's own, from the plan. */
  clock(name: string): Clock {
    const known = this.#clocks.get(name) ?? new Clock(this.plan.clockRates[name] ?? 1);
    this.#clocks.set(name, known);
    return known;
  }

  #machineHost(): MachineHost {
    const { leaseMs, heartbeatMs } = this.plan;
    return {
      queue: this.queue,
      checker: this.checker,
      timing: { ...defaultTiming, leaseMs, heartbeatMs },
      newConnection: (from) => {
        this.#connections += 1;
        return `${from}#${this.#connections}`;
      },
      sendStream: (from, to, message) => this.#sendStream(from, to, message),
      status: (from, status) => this.#sendStatus(from, status),
      reset: (from) => {
        for (const orchestrator of this.orchestrators) {
          this.network.datagram(from, orchestrator.name, () => orchestrator.onReset(from), false);
        }
      },
      finishWrite: (write, lsnOf) => this.clients.finishWrite(write, lsnOf),
      finishRead: (read, seen) => this.clients.finishRead(read, seen),
      copyOf: (from) => this.#copyOf(from),
      trace: (text) => this.note(text),
    };
  }

  #copyOf(from: NodeId): Disk | null {
    const machine = this.machines.get(from);
    const postgres = machine?.postgres;
    if (
      postgres === undefined ||
      postgres === null ||
      postgres.leading === null ||
      !postgres.leading.admits
    ) {
      return null;
    }
    // From the leader, or from a backup that may be old and whose archive ends early.
    const { applied } = postgres;
    const oldest = this.#backups.chance(0.5) ? applied : Math.min(applied, 8);
    const count = this.#backups.chance(0.4) ? 1 + this.#backups.below(oldest) : applied;
    return { records: postgres.disk.records.slice(0, count), flushed: count, limit: count, undo: null };
  }

  #sendStream(from: NodeId, to: string, message: StreamMessage): void {
    this.network.stream(from, to, message.conn, () => this.machines.get(to)?.receiveStream(from, message));
  }

  #sendStatus(from: NodeId, status: Status): void {
    const { state, term, promisedTerm, postgres } = status.view;
    this.note(
      `${from} ${postgres} ${state} term ${term} promised ${promisedTerm} flushed ${status.flushedLsn}`,
    );
    for (const orchestrator of this.orchestrators) {
      this.network.datagram(from, orchestrator.name, () => orchestrator.onStatus(from, status), false);
    }
  }

  #orchestratorHost(): OrchestratorHost {
    return {
      queue: this.queue,
      nodes: this.plan.nodes.map((member) => member.id),
      trace: (text) => this.note(text),
      watch: (from) => {
        for (const machine of this.machines.values()) {
          this.network.datagram(from, machine.id, () => machine.pushStatus(), false);
        }
      },
      attemptEnded: () => {
        this.#attempts += 1;
      },
      stop: (node) => {
        // An operator who was held up until everything healed has nothing to stop any more.
        if (!this.healed) {
          this.machines.get(node)?.operatorStop();
        }
      },
      restart: (node) => this.machines.get(node)?.crashPostgres(),
      call: (from, call, done) => this.#call(from, call, done),
      request: (from, node, request, timeoutMs, done) => this.#request(from, node, request, timeoutMs, done),
    };
  }

  #call(from: string, call: Call, done: (result: CallResult) => void): void {
    let open = true;
    const settle = (result: CallResult): void => {
      if (open) {
        open = false;
        done(result);
      }
    };
    this.queue.after(call.timeoutMs, () => settle({ kind: "unreachable", message: "timed out" }));
    if (call.method === "elect") {
      this.checker.told(call.node, call.term);
    }
    this.#deliver(
      from,
      call.node,
      requestOf(call),
      (answer) => {
        const result = resultOf(call.node, call, answer);
        if (result.kind === "recruited") {
          const machine = this.machines.get(call.node);
          this.checker.recruited(call.node, call.term, call.coordinator, machine?.promisedTerm ?? 0);
        }
        return () => settle(result);
      },
      () => settle({ kind: "unreachable", message: "connection reset" }),
    );
  }

  #request(
    from: string,
    node: NodeId,
    request: NodeRequest,
    timeoutMs: number,
    done: (ok: boolean, lsn: number) => void,
  ): void {
    let open = true;
    const settle = (ok: boolean, lsn: number): void => {
      if (open) {
        open = false;
        done(ok, lsn);
      }
    };
    this.queue.after(timeoutMs, () => settle(false, 0));
    this.#deliver(
      from,
      node,
      request,
      (answer) => () => {
        settle(answer.kind === "done", answer.kind === "done" ? Number(answer.lsn ?? 0n) : 0);
      },
      () => settle(false, 0),
    );
  }

  #deliver(
    from: string,
    node: NodeId,
    request: NodeRequest,
    answered: (answer: Parameters<Parameters<Machine["request"]>[1]>[0]) => () => void,
    reset: () => void,
  ): void {
    this.network.datagram(from, node, () => {
      const machine = this.machines.get(node);
      if (machine === undefined || !machine.up) {
        return;
      }
      if (!machine.sidecarUp) {
        this.network.datagram(node, from, reset, false);
        return;
      }
      machine.request(request, (answer) => this.network.datagram(node, from, answered(answer)));
    });
  }

  // ---- running

  run(): RunResult {
    let failure: RunResult["failure"] = null;
    try {
      this.#start();
      this.#runUntil(this.plan.safetyMs);
      this.#heal();
      this.#converge();
      this.history.check(this.checker.committed);
    } catch (error) {
      const atMs = this.queue.nowMs;
      if (error instanceof InvariantViolation) {
        failure = { invariant: error.invariant, message: error.message, atMs };
      } else if (error instanceof Error) {
        failure = { invariant: "crash", message: error.stack ?? error.message, atMs };
      } else {
        throw error;
      }
      this.note(`FAILED ${failure.message}`);
    }
    return {
      seed: this.plan.seed,
      failure,
      events: this.#events,
      elections: this.checker.elections - 1,
      committed: this.checker.committed.length,
      acknowledged: this.history.acknowledged,
      reads: this.history.reads,
      attempts: this.#attempts,
      traceHash: this.#hash >>> 0,
      trace: this.trace,
    };
  }

  #start(): void {
    for (const machine of this.machines.values()) {
      machine.boot();
    }
    for (const orchestrator of this.orchestrators) {
      orchestrator.start();
    }
    if (!this.plan.automatic) {
      this.queue.at(120, () => this.orchestrators[0]?.begin("first leader"));
    }
    this.clients.start();
    for (const { atMs, action } of this.plan.steps) {
      this.queue.at(atMs, () => {
        if (!this.healed) {
          this.#faults.perform(action);
        }
      });
    }
  }

  #runUntil(untilMs: number): void {
    while (this.queue.step(untilMs)) {
      this.#events += 1;
      if (this.#events > maxEvents) {
        throw new InvariantViolation("I8", `more than ${maxEvents} events`);
      }
    }
  }

  #heal(): void {
    this.note("=== healed");
    this.healed = true;
    this.network.heal();
    this.network.options = { loss: 0, duplicate: 0, delayMs: 3, stall: 0, stallMs: 0 };
    for (const machine of this.machines.values()) {
      machine.thaw();
      machine.healDisk();
      machine.boot();
      machine.operatorStart();
    }
    for (const orchestrator of this.orchestrators) {
      orchestrator.thaw();
      orchestrator.start();
      orchestrator.calm();
    }
    this.#attempts = 0;
  }

  /** I8 and I9: a leader within bounded time and attempts, every node equal to it, without an operator. */
  #converge(): void {
    const deadlineMs = this.queue.nowMs + livenessMs;
    const before = this.history.acknowledged;
    for (;;) {
      this.#runUntil(Math.min(this.queue.nowMs + 50, deadlineMs));
      if (this.history.acknowledged > before && this.#converged()) {
        return;
      }
      if (this.#attempts > livenessAttempts) {
        throw new InvariantViolation("I8", `no leader after ${this.#attempts} attempts`);
      }
      if (this.queue.nowMs >= deadlineMs) {
        throw new InvariantViolation(
          this.leader() === null ? "I8" : "I9",
          `not converged: ${this.#describe()}`,
        );
      }
    }
  }

  /** The newest of those that admit clients. */
  leader(): Machine | null {
    const leaders = [...this.machines.values()].filter(
      (machine) => machine.postgres?.leading?.admits === true,
    );
    leaders.sort((a, b) => (b.postgres?.leading?.term ?? 0) - (a.postgres?.leading?.term ?? 0));
    return leaders[0] ?? null;
  }

  #converged(): boolean {
    const leader = this.leader();
    const records = leader?.postgres?.disk.records;
    const ruleset = leader?.postgres?.appliedRuleset ?? null;
    if (
      leader === null ||
      records === undefined ||
      ruleset === null ||
      !this.#cohortSettled(leader, ruleset)
    ) {
      return false;
    }
    for (const machine of this.machines.values()) {
      const { postgres, disk } = machine;
      if (machine === leader) {
        continue;
      }
      const follows = postgres?.receiver?.streaming === true && postgres.receiver.leader === leader.id;
      const last = disk?.records.at(-1);
      if (
        !follows ||
        last === undefined ||
        records[last.index] !== last ||
        records.length - last.index > 30
      ) {
        return false;
      }
    }
    return true;
  }

  /** No change of the rules is left half done, and whoever counts is who he was. */
  #cohortSettled(leader: Machine, ruleset: Ruleset): boolean {
    if (ruleset.intent !== undefined || leader.postgres?.leading?.pending !== null) {
      return false;
    }
    return ruleset.cohort.every(({ id, incarnation }) => this.machines.get(id)?.incarnation === incarnation);
  }

  #describe(): string {
    const rules = this.leader()?.postgres?.appliedRuleset;
    const unfinished = rules?.intent === undefined ? "" : `ruleset ${rules.version} is a step only; `;
    const nodes = [...this.machines.values()]
      .map((machine) => {
        const { postgres, disk } = machine;
        return `${machine.id} ${postgres?.state ?? "down"} ${lastLsn(disk?.records ?? [])} promised ${machine.promisedTerm}`;
      })
      .join("; ");
    return `${unfinished}${nodes}`;
  }
}
