// A small cluster in which a scenario file decides who sees whom and when: the real node and coordinator cores
// over the simulator's model of Postgres, without luck or faults of their own.

import { Checker } from "../../sim/src/checker.ts";
import type { Body, LogRecord } from "../../sim/src/log.ts";
import { lastLsn } from "../../sim/src/log.ts";
import type { MachineHost } from "../../sim/src/machine-processes.ts";
import type { StreamMessage } from "../../sim/src/messages.ts";
import { Machine } from "../../sim/src/node-host.ts";
import type { Timing } from "../../sim/src/postgres-types.ts";
import { EventQueue } from "../../sim/src/queue.ts";
import { requestOf, resultOf } from "../../sim/src/wire.ts";
import {
  type Call,
  type CallResult,
  type ChangeRequest,
  type CoordinatorEffect,
  type CoordinatorEvent,
  type CoordinatorState,
  coordinatorId,
  defaultCoordinatorOptions,
  formatPosition,
  formatRuleset,
  initialCoordinator,
  memberOf,
  type NodeAnswer,
  type NodeId,
  type NodeRequest,
  nodeId,
  parseRule,
  planRulesetChange,
  type Ruleset,
  stepCoordinator,
  term,
} from "../src/index.ts";

const timing: Timing = {
  startMs: 2,
  fsyncMs: 0.1,
  slowFsyncMs: 0.1,
  reconnectMs: 5,
  heartbeatMs: 10,
  leaseMs: 0,
  maxRecordSize: 1,
};

interface Coordinator {
  state: CoordinatorState;
  reach: ReadonlySet<string>;
  crashAt: string | null;
  crashed: boolean;
  lines: string[];
}

export class Lab {
  readonly queue = new EventQueue();
  readonly machines = new Map<string, Machine>();
  readonly checker: Checker;
  readonly rulesets = new Map<number, Ruleset>();
  readonly #records = new Map<string, LogRecord>();
  readonly #base: LogRecord[];
  readonly #coordinators = new Map<string, Coordinator>();
  /** Who sees whom; null: everybody. */
  #groups: ReadonlySet<string>[] | null = null;
  #held: string | null = null;
  readonly #heldConnections = new Set<string>();
  readonly #broken = new Set<string>();
  #counter = 0;
  #writes = 0;

  constructor(ids: readonly string[], first: Ruleset) {
    this.rulesets.set(first.version, first);
    const begin: LogRecord = { term: 1, lsn: 1, index: 0, prev: null, body: { kind: "begin" } };
    const rules: LogRecord = {
      term: 1,
      lsn: 2,
      index: 1,
      prev: begin,
      body: { kind: "ruleset", ruleset: first },
    };
    this.#base = [begin, rules];
    this.checker = new Checker({
      holders: (record) => {
        const holding = [...this.machines.values()].filter(
          (machine) => machine.disk?.records[record.index] === record,
        );
        return new Set(holding.map((machine) => machine.id));
      },
    });
    this.checker.committedUpTo("bootstrap", 1, this.#base, 2);
    const host = this.#host();
    for (const id of ids) {
      const disk = { records: [...this.#base], flushed: 2, limit: 2, undo: null };
      const promise = { term: term(1), coordinator: coordinatorId("bootstrap") };
      const incarnation = memberOf(first, nodeId(id))?.incarnation ?? null;
      this.machines.set(id, new Machine(nodeId(id), host, 1, { disk, promise, incarnation }));
    }
  }

  #host(): MachineHost {
    return {
      queue: this.queue,
      checker: this.checker,
      timing,
      sendStream: (from, to, message) => {
        if (!this.sees(from, to)) {
          // A connection that loses a message is broken; its end notices and connects anew.
          this.#broken.add(message.conn);
        } else if (!this.#broken.has(message.conn) && !this.#isHeld(message)) {
          this.queue.after(0.2, () => this.machines.get(to)?.receiveStream(from, message));
        }
      },
      newConnection: (from) => {
        this.#counter += 1;
        return `${from}#${this.#counter}`;
      },
      status: (from, { view }) => {
        const { state, term: viewTerm, promisedTerm, postgres } = view;
        for (const [name, coordinator] of this.#coordinators) {
          if (!coordinator.crashed && coordinator.reach.has(from)) {
            const running = postgres === "running" || postgres === "starting";
            this.#feed(name, { kind: "status", node: from, state, term: viewTerm, promisedTerm, running });
          }
        }
      },
      reset: () => undefined,
      finishWrite: () => undefined,
      finishRead: () => undefined,
      copyOf: (from) => {
        const { postgres } = this.machine(from);
        if (postgres?.leading?.admits !== true) {
          return null;
        }
        const count = postgres.applied;
        return { records: postgres.disk.records.slice(0, count), flushed: count, limit: count, undo: null };
      },
      trace: () => undefined,
    };
  }

  /** Replication stops before a record with this label, "4ok": everything up to it arrives. */
  hold(label: string | null): void {
    this.#held = label;
    this.#heldConnections.clear();
  }

  #isHeld(message: StreamMessage): boolean {
    if (message.kind !== "wal" || this.#held === null) {
      return false;
    }
    if (message.records.some((record) => `${record.term}${this.label(record)}` === this.#held)) {
      this.#heldConnections.add(message.conn);
    }
    return this.#heldConnections.has(message.conn);
  }

  sees(a: string, b: string): boolean {
    return this.#groups === null || this.#groups.some((group) => group.has(a) && group.has(b));
  }

  connect(groups: readonly (readonly string[])[] | null): void {
    this.#groups = groups === null ? null : groups.map((group) => new Set(group));
  }

  boot(): void {
    for (const machine of this.machines.values()) {
      machine.boot();
    }
    this.run(200);
  }

  run(ms: number): void {
    const until = this.queue.nowMs + ms;
    while (this.queue.step(until)) {
      // every event up to then
    }
  }

  machine(id: string): Machine {
    const machine = this.machines.get(id);
    if (machine === undefined) {
      throw new Error(`there is no node ${id}`);
    }
    return machine;
  }

  // ---- logs

  /** "5A 5B 6ok 6rs2": term and letter, term record, ruleset record. */
  setLog(id: string, items: readonly string[], applied: number): void {
    const machine = this.machine(id);
    const { disk } = machine;
    if (disk === null) {
      throw new Error(`${id} has no data`);
    }
    let prev = this.#base[1] as LogRecord;
    const records = [...this.#base];
    for (const item of items) {
      const match = /^(\d+)(ok|rs(\d+)|[A-Z])$/.exec(item);
      if (match === null) {
        throw new Error(`"${item}" is no record`);
      }
      prev = this.#record(prev, Number(match[1]), match[2] ?? "", match[3]);
      records.push(prev);
    }
    disk.records = records;
    disk.flushed = records.length;
    disk.limit = 2 + applied;
    const last = Math.max(1, ...records.map((record) => record.term));
    machine.promise = {
      term: term(Math.max(last, machine.promisedTerm)),
      coordinator: coordinatorId("before"),
    };
    if (disk.limit > this.checker.committed.length) {
      this.checker.committedUpTo("bootstrap", last, records, disk.limit);
    }
  }

  #record(prev: LogRecord, recordTerm: number, what: string, version: string | undefined): LogRecord {
    const key = `${prev.index}/${prev.term}/${this.label(prev)}>${recordTerm}${what}`;
    let record = this.#records.get(key);
    if (record === undefined) {
      const body: Body =
        what === "ok"
          ? { kind: "begin" }
          : version === undefined
            ? { kind: "data", write: what.charCodeAt(0) - 65 }
            : { kind: "ruleset", ruleset: this.ruleset(Number(version)) };
      record = { term: recordTerm, lsn: prev.lsn + 1, index: prev.index + 1, prev, body };
      this.#records.set(key, record);
    }
    return record;
  }

  ruleset(version: number): Ruleset {
    const ruleset = this.rulesets.get(version);
    if (ruleset === undefined) {
      throw new Error(`there is no ruleset ${version}`);
    }
    return ruleset;
  }

  label({ body }: LogRecord): string {
    switch (body.kind) {
      case "begin":
        return "ok";
      case "data":
        return String.fromCharCode(65 + body.write);
      case "ruleset":
        return `rs${body.ruleset.version}`;
      default:
        return body satisfies never;
    }
  }

  logLine(id: string): string {
    const { disk, postgres, promisedTerm } = this.machine(id);
    const records = disk?.records.slice(2) ?? [];
    const applied = Math.max(0, (postgres?.applied ?? disk?.limit ?? 2) - 2);
    const text = records.map((record) => `${record.term}${this.label(record)}`).join(" ");
    const shown = postgres === null ? "down" : postgres.leading?.admits === true ? "leader" : postgres.state;
    return `${id}: ${text || "empty"} | applied ${applied} | ${shown}, promised ${promisedTerm}`;
  }

  // ---- requests and coordinators

  ask(id: string, request: NodeRequest): NodeAnswer | null {
    let answer: NodeAnswer | null = null;
    this.machine(id).request(request, (given) => {
      answer = given;
    });
    this.run(300);
    return answer;
  }

  coordinator(name: string): Coordinator {
    let found = this.#coordinators.get(name);
    if (found === undefined) {
      const options = {
        ...defaultCoordinatorOptions,
        graceMs: 450,
        recruitTimeoutMs: 500,
        establishTimeoutMs: 400,
      };
      const state = initialCoordinator(coordinatorId(name), options);
      found = { state, reach: new Set(), crashAt: null, crashed: false, lines: [] };
      this.#coordinators.set(name, found);
    }
    return found;
  }

  change(name: string, reach: readonly string[], crashAt: string | null, request: ChangeRequest): string[] {
    const coordinator = this.coordinator(name);
    coordinator.reach = new Set(reach);
    coordinator.crashAt = crashAt;
    coordinator.lines = [];
    this.#feed(name, { kind: "begin", request });
    this.run(1_500);
    return coordinator.lines;
  }

  #feed(name: string, event: CoordinatorEvent): void {
    const coordinator = this.coordinator(name);
    if (coordinator.crashed) {
      return;
    }
    const { state, effects } = stepCoordinator(coordinator.state, event);
    coordinator.state = state;
    for (const effect of effects) {
      this.#perform(name, coordinator, effect);
    }
  }

  #perform(name: string, coordinator: Coordinator, effect: CoordinatorEffect): void {
    if (coordinator.crashed) {
      return;
    }
    switch (effect.kind) {
      case "call":
        if (effect.call.method === coordinator.crashAt) {
          coordinator.crashed = true;
          coordinator.lines.push(`${name} dies before it sends ${effect.call.method}`);
          return;
        }
        this.#call(name, coordinator, effect.call);
        return;
      case "timer":
        this.queue.after(effect.afterMs, () => this.#feed(name, { kind: "timer", timerId: effect.timerId }));
        return;
      case "note":
        coordinator.lines.push(effect.text);
        return;
      case "finished":
        return;
      default:
        effect satisfies never;
    }
  }

  #call(name: string, coordinator: Coordinator, call: Call): void {
    const done = (result: CallResult): void => {
      this.queue.after(0.1, () => this.#feed(name, { kind: "reply", callId: call.id, result }));
    };
    if (call.method === "elect") {
      const joint = call.joint.length === 0 ? "" : ` joint ${call.joint.join(" ")}`;
      coordinator.lines.push(`elect ${call.node} rule ${call.rule}${joint} ruleset ${call.ruleset.version}`);
    } else if (call.method === "fetch") {
      coordinator.lines.push(`fetch ${call.node} from ${call.from} up to ${formatPosition(call.target)}`);
    }
    if (!coordinator.reach.has(call.node)) {
      done({ kind: "unreachable", message: "out of reach" });
      return;
    }
    this.machine(call.node).request(requestOf(call), (answer) => done(resultOf(call.node, call, answer)));
  }

  // ---- clients and operators

  /** A follow as any orchestrator would send it. */
  follow(id: string, leader: string): string {
    const { postgres } = this.machine(leader);
    const inTerm = term(postgres?.leading?.term ?? 0);
    const coordinator = coordinatorId("repair");
    const request = {
      kind: "follow" as const,
      term: inTerm,
      coordinator,
      leader: nodeId(leader),
      member: true,
    };
    const answer = this.ask(id, request);
    this.run(100);
    const counted = postgres?.followers.find((each) => each.node === id)?.member;
    const how =
      counted === undefined ? "does not stream" : counted ? "streams as a member" : "streams uncounted";
    const code = answer?.kind === "refused" ? ` (${answer.refusal.code})` : "";
    return `${id} ${how}${code}`;
  }

  write(id: string): string {
    const { postgres } = this.machine(id);
    const before = lastLsn(postgres?.disk.records ?? []);
    postgres?.write(this.#writes);
    this.#writes += 1;
    this.run(30);
    return before === lastLsn(postgres?.disk.records ?? []) ? "refused" : "written";
  }

  skipLetters(count: number): void {
    this.#writes = count;
  }

  changeRuleset(id: string, version: number): string {
    const { postgres } = this.machine(id);
    const current = postgres?.appliedRuleset;
    const leading = postgres?.leading;
    if (!current || !leading) {
      return `${id} leads nothing`;
    }
    const streaming = new Set(postgres?.followers.filter((each) => each.member).map((each) => each.node));
    const input = { leader: nodeId(id), term: term(leading.term), current, pending: null, streaming };
    const plan = planRulesetChange({ ...input, wanted: this.ruleset(version) });
    if (!plan.ok) {
      return `${plan.code}: ${plan.message}`;
    }
    const answer = this.ask(id, {
      kind: "changeRuleset",
      term: input.term,
      rule: plan.rule,
      ruleset: plan.ruleset,
      timeoutMs: 200,
    });
    return answer === null ? "no answer yet" : answer.kind === "done" ? "durable" : "refused";
  }
}

export function parseRuleset(
  version: number,
  cohort: readonly string[],
  leaders: readonly string[],
): Ruleset {
  const rules = new Map<NodeId, Ruleset["leaders"] extends ReadonlyMap<NodeId, infer R> ? R : never>();
  for (const item of leaders) {
    const at = item.indexOf("=");
    const parsed = parseRule(item.slice(at + 1));
    if (!parsed.ok) {
      throw new Error(`${item}: ${parsed.message}`);
    }
    rules.set(nodeId(item.slice(0, at)), parsed.rule);
  }
  const members = cohort.map((word) => {
    const [id = "", incarnation] = word.split("@");
    return { id: nodeId(id), zone: "a", region: "", ...(incarnation === undefined ? {} : { incarnation }) };
  });
  return { version, name: `rs${version}`, cohort: members, leaders: rules };
}

export { formatRuleset };
