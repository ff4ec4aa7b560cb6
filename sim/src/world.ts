// One simulated cluster: machines, orchestrators, clients, and a script of faults; a safety phase, then a liveness
// phase in which everything heals and a leader must be established and everybody converge.

import {
  term as asTerm,
  type Call,
  type CallResult,
  coordinatorId,
  type NodeId,
  type NodeRequest,
  planRulesetChange,
  type Ruleset,
} from "@quorate/consensus";
import { Checker, InvariantViolation } from "./checker.ts";
import { History } from "./history.ts";
import { type LogRecord, lastLsn } from "./log.ts";
import type { StreamMessage } from "./messages.ts";
import { Network, type NetworkOptions } from "./network.ts";
import { defaultTiming, Machine, type MachineHost, requestOf, resultOf, type Status } from "./node-host.ts";
import { Orchestrator, type OrchestratorHost } from "./orchestrator-host.ts";
import type { Disk } from "./postgres-types.ts";
import { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";
import { type Action, orchestratorNames, rulesetOf, type WorldPlan } from "./script.ts";

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
  #healed = false;
  #clients = new Map<number, (ok: boolean) => void>();
  #readers = new Map<number, (lsnSeen: number | null) => void>();
  #readIds = 0;
  #keepTrace: boolean;

  constructor(plan: WorldPlan, keepTrace = false) {
    this.plan = plan;
    this.#keepTrace = keepTrace;
    this.network = new Network(this.queue, plan.seed, this.#networkOptions());
    this.checker = new Checker({ holders: (record) => this.#holders(record) });
    this.#build();
  }

  #networkOptions(): NetworkOptions {
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
      const { disk } = machine;
      if (disk !== null && record.index < disk.flushed && disk.records[record.index] === record) {
        holders.add(machine.id);
      }
    }
    return holders;
  }

  // ---- building

  #build(): void {
    const { plan } = this;
    const founding = plan.nodes.filter((member) => plan.founders.includes(member.id));
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
      this.machines.set(member.id, new Machine(member.id, host, plan.seed, disk, promise));
    }
    const orchestratorHost = this.#orchestratorHost();
    for (const [index, name] of orchestratorNames(plan.orchestrators).entries()) {
      const orchestrator = new Orchestrator(name, index, orchestratorHost, plan.seed);
      orchestrator.automatic = plan.automatic;
      orchestrator.hasty = plan.hasty;
      this.orchestrators.push(orchestrator);
    }
  }

  #machineHost(): MachineHost {
    return {
      queue: this.queue,
      checker: this.checker,
      timing: defaultTiming,
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
      finishWrite: (write, ok) => this.#clients.get(write)?.(ok),
      finishRead: (read, lsnSeen) => this.#readers.get(read)?.(lsnSeen),
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
    const count = postgres.applied;
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

  // ---- clients

  #startClients(): void {
    for (let client = 0; client < this.plan.clients; client += 1) {
      const random = Random.stream(this.plan.seed, `client ${client}`);
      this.queue.after(random.between(0, 100), () => this.#client(random));
    }
  }

  #client(random: Random): void {
    const again = (): void => this.queue.after(random.between(1, 60), () => this.#client(random));
    // Any node that thinks it leads will do: clients can't know better.
    const leaders = [...this.machines.values()].filter(
      (machine) => machine.postgres?.leading?.admits === true,
    );
    if (leaders.length === 0) {
      this.queue.after(40, () => this.#client(random));
      return;
    }
    const machine = random.pick(leaders);
    const travelMs = random.chance(0.05) ? random.between(5, 400) : random.between(0.1, 2);
    if (random.chance(0.7)) {
      this.#write(machine, travelMs, again);
    } else {
      this.#read(machine, travelMs, again);
    }
  }

  #write(machine: Machine, travelMs: number, again: () => void): void {
    const write = this.history.ask(this.queue.nowMs);
    let open = true;
    const finish = (): void => {
      if (open) {
        open = false;
        again();
      }
    };
    this.#clients.set(write, (ok) => {
      this.#clients.delete(write);
      if (ok) {
        this.queue.after(travelMs, () => this.history.acknowledge(write, this.queue.nowMs));
      }
      this.queue.after(travelMs, finish);
    });
    this.queue.after(travelMs, () => {
      if (!machine.client((postgres) => postgres.write(write))) {
        this.#clients.get(write)?.(false);
      }
    });
    this.queue.after(400, finish);
  }

  #read(machine: Machine, travelMs: number, again: () => void): void {
    this.#readIds += 1;
    const read = this.#readIds;
    const askedMs = this.queue.nowMs;
    let open = true;
    const finish = (): void => {
      if (open) {
        open = false;
        again();
      }
    };
    this.#readers.set(read, (lsnSeen) => {
      this.#readers.delete(read);
      this.queue.after(travelMs, () => {
        if (lsnSeen !== null) {
          this.history.read(askedMs, this.queue.nowMs, lsnSeen);
        }
        finish();
      });
    });
    this.queue.after(travelMs, () => {
      if (!machine.client((postgres) => postgres.readLeader(read))) {
        this.#readers.get(read)?.(null);
      }
    });
    this.queue.after(600, finish);
  }

  // ---- faults and operators

  #perform(action: Action): void {
    this.note(`--- ${JSON.stringify(action)}`);
    switch (action.kind) {
      case "killPostgres":
        this.machines.get(action.node)?.crashPostgres();
        return;
      case "killSidecar":
        this.#killSidecar(action.node, action.downMs);
        return;
      case "killBoth":
        this.#killSidecar(action.node, action.downMs);
        this.machines.get(action.node)?.crashPostgres();
        return;
      case "powerCut":
        for (const id of action.nodes) {
          const machine = this.machines.get(id);
          machine?.powerCut();
          this.queue.after(action.downMs, () => machine?.boot());
        }
        return;
      case "freezePostgres":
        this.machines.get(action.node)?.freezePostgres(action.ms);
        return;
      case "freezeSidecar":
        this.machines.get(action.node)?.freezeSidecar(action.ms);
        return;
      case "freezeOrchestrator":
        this.orchestrators[action.at]?.freeze(action.ms);
        return;
      case "killOrchestrator": {
        const orchestrator = this.orchestrators[action.at];
        orchestrator?.crash();
        this.queue.after(action.downMs, () => orchestrator?.start());
        return;
      }
      case "cut":
        this.#cut(action);
        return;
      case "slow": {
        const before = this.network.options;
        this.network.options = {
          ...before,
          delayMs: action.delayMs,
          stallMs: action.stallMs,
          stall: Math.max(before.stall, 0.05),
        };
        this.queue.after(action.ms, () => {
          if (!this.#healed) {
            this.network.options = this.#networkOptions();
          }
        });
        return;
      }
      case "switchover":
        this.orchestrators[action.at]?.switchover(action.to);
        return;
      case "change":
        this.orchestrators[action.at]?.begin("told to", {
          ...(action.candidate === null ? {} : { candidate: action.candidate }),
          ...(action.lease ? { leaseWaitMs: 100 } : {}),
        });
        return;
      case "rules":
        this.#changeRules(action);
        return;
      case "rulesNow":
        this.#rulesNow(action);
        return;
      default:
        action satisfies never;
    }
  }

  #killSidecar(id: NodeId, downMs: number): void {
    const machine = this.machines.get(id);
    machine?.crashSidecar();
    this.queue.after(downMs, () => machine?.startSidecar());
  }

  #cut({ pairs, ms }: Extract<Action, { kind: "cut" }>): void {
    for (const [from, to] of pairs) {
      this.network.block(from, to);
    }
    this.queue.after(ms, () => {
      if (!this.#healed) {
        for (const [from, to] of pairs) {
          this.network.unblock(from, to);
        }
      }
    });
  }

  #changeRules({ at, policy, without, byCoordinator }: Extract<Action, { kind: "rules" }>): void {
    const orchestrator = this.orchestrators[at];
    const make = (current: Ruleset): Ruleset | null => {
      const members = this.plan.nodes.filter(
        (member) => !without.includes(member.id) && this.machines.get(member.id)?.disk !== null,
      );
      return rulesetOf(policy, members, current.version + 1);
    };
    if (byCoordinator) {
      orchestrator?.changeByCoordinator(make);
    } else {
      orchestrator?.changeRuleset(make);
    }
  }

  #rulesNow({ policy, without }: Extract<Action, { kind: "rulesNow" }>): void {
    const leader = this.#leader();
    const leading = leader?.postgres?.leading;
    const current = leader?.postgres?.view().ruleset;
    if (!leader || !leading || !current) {
      return;
    }
    const members = this.plan.nodes.filter(
      (member) => !without.includes(member.id) && this.machines.get(member.id)?.disk !== null,
    );
    let wanted: Ruleset | null = null;
    for (let more = 0; more < 10 && wanted === null; more += 1) {
      const made = rulesetOf(policy + more, members, current.version + 1);
      wanted = made?.leaders.has(leader.id) === true ? made : null;
    }
    if (wanted === null) {
      return;
    }
    const joined = leader.postgres?.followers.filter((each) => each.member) ?? [];
    const streaming = new Set(joined.map((each) => each.node));
    const term = asTerm(leading.term);
    const plan = planRulesetChange({ leader: leader.id, term, current, pending: null, wanted, streaming });
    if (plan.ok) {
      this.note(`operator asks ${leader.id} for ruleset ${wanted.version}`);
      const request: NodeRequest = {
        kind: "changeRuleset",
        term,
        rule: plan.rule,
        ruleset: plan.ruleset,
        timeoutMs: 800,
      };
      leader.request(request, () => undefined);
    }
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
    this.#startClients();
    for (const { atMs, action } of this.plan.steps) {
      this.queue.at(atMs, () => {
        if (!this.#healed) {
          this.#perform(action);
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
    this.#healed = true;
    this.network.heal();
    this.network.options = { loss: 0, duplicate: 0, delayMs: 3, stall: 0, stallMs: 0 };
    for (const machine of this.machines.values()) {
      machine.thaw();
      machine.boot();
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
          this.#leader() === null ? "I8" : "I9",
          `not converged: ${this.#describe()}`,
        );
      }
    }
  }

  #leader(): Machine | null {
    const leaders = [...this.machines.values()].filter(
      (machine) => machine.postgres?.leading?.admits === true,
    );
    leaders.sort((a, b) => (b.postgres?.leading?.term ?? 0) - (a.postgres?.leading?.term ?? 0));
    return leaders[0] ?? null;
  }

  #converged(): boolean {
    const leader = this.#leader();
    const records = leader?.postgres?.disk.records;
    if (leader === null || records === undefined) {
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

  #describe(): string {
    return [...this.machines.values()]
      .map((machine) => {
        const { postgres, disk } = machine;
        return `${machine.id} ${postgres?.state ?? "down"} ${lastLsn(disk?.records ?? [])} promised ${machine.promisedTerm}`;
      })
      .join("; ");
  }
}
