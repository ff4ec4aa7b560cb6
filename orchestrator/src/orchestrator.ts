// One orchestrator: observe → decide → act, over and over, on events. What it observes comes from the watcher, what it
// decides from the core's failure table, and what it does is either a leader change (the core's coordinator) or the
// repair of one node. It shares nothing with the others; the term decides.
import { type Logger, messageOf } from "@quorate/common";
import {
  builtInPolicies,
  type CoordinatorId,
  type CoordinatorOptions,
  type Decision,
  type DetectorOptions,
  type DetectorState,
  defaultCoordinatorOptions,
  defaultDetectorOptions,
  detect,
  formatPosition,
  initialDetector,
  type NodeId,
  type Observation,
  type Outcome,
  type Policy,
  seenBefore,
  type Term,
} from "@quorate/consensus";
import { addressesOf } from "./addresses.ts";
import { AuditTrail, inputsOf } from "./events.ts";
import { look, type Memory, noMemory } from "./observe.ts";
import { type Repair, type RepairResult, repair } from "./repairs.ts";
import { type CohortEvent, CohortWatcher } from "./shell/cohort-watcher.ts";
import { type CallRecord, CoordinatorShell, type NodeDirectory } from "./shell/coordinator-shell.ts";

/** What metrics and /status want to know; the orchestrator calls, nobody answers. */
export interface Listener {
  readonly call: (record: CallRecord) => void;
  readonly change: (outcome: Outcome, durationMs: number) => void;
  readonly repair: (node: NodeId, action: string, ok: boolean) => void;
  readonly decisions: (decisions: readonly Decision[]) => void;
}

export interface OrchestratorOptions {
  readonly id: CoordinatorId;
  /** For people: the id without what makes it unique. */
  readonly name?: string;
  readonly zone: string;
  readonly addresses: readonly string[];
  readonly log: Logger;
  readonly listener?: Listener;
  readonly detector?: DetectorOptions;
  readonly coordinator?: CoordinatorOptions;
  /** Those that rulesets may name; default: the built-in ones. */
  readonly policies?: readonly Policy[];
  readonly nowMs?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

interface Busy {
  readonly untilMs: number;
  readonly failures: number;
}

/** After a repair's answer, until the node's own status tells the result. */
const repairSettleMs = 150;
const maxRepairPauseMs = 5_000;
const neverMs = Number.POSITIVE_INFINITY;

/** Pure: the pause after `failures` failed repairs of one node in a row. */
export function repairPauseMs(failures: number): number {
  return failures === 0 ? repairSettleMs : Math.min(maxRepairPauseMs, 100 * 2 ** Math.min(failures, 10));
}

export class Orchestrator {
  readonly #options: OrchestratorOptions;
  readonly #nowMs: () => number;
  readonly #random: () => number;
  readonly #watcher: CohortWatcher;
  readonly #shell: CoordinatorShell;
  readonly #busy = new Map<NodeId, Busy>();
  readonly #audit: AuditTrail;
  readonly #told = new Map<string, string>();
  #memory: Memory = noMemory;
  #detector: DetectorState = initialDetector;
  #observation: Observation | undefined;
  #decisions: readonly Decision[] = [];
  #timer: NodeJS.Timeout | undefined;
  #notBeforeMs = 0;
  /** The term of our last attempt that came to nothing: promises to it are nobody's work. */
  #endedTerm: Term | undefined;
  #stopped = false;

  constructor(options: OrchestratorOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
    this.#watcher = new CohortWatcher({
      watcher: options.id,
      nowMs: this.#nowMs,
      onEvent: (event) => this.#onEvent(event),
    });
    this.#audit = new AuditTrail({
      by: options.name ?? options.id,
      coordinator: options.id,
      nodes: () => this.#connected(),
      client: (node) => this.#watcher.client(node),
    });
    const { listener } = options;
    this.#shell = new CoordinatorShell({
      id: options.id,
      directory: this.directory,
      log: options.log,
      nowMs: this.#nowMs,
      options: options.coordinator ?? defaultCoordinatorOptions,
      ...(listener === undefined ? {} : { onCall: listener.call }),
    });
  }

  start(): void {
    for (const address of this.#options.addresses) this.#watcher.add(address);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#shell.abandon("the orchestrator stops");
    this.#watcher.close();
  }

  #connected(): NodeId[] {
    const nodes = [...(this.#observation?.nodes.values() ?? [])];
    return nodes.filter(({ link }) => link === "connected").map(({ id }) => id);
  }

  get observation(): Observation | undefined {
    return this.#observation;
  }

  get decisions(): readonly Decision[] {
    return this.#decisions;
  }

  get directory(): NodeDirectory {
    return {
      client: (node) => this.#watcher.client(node),
      endpoint: (node) => {
        const status = this.#watcher.view(node)?.status;
        if (status !== undefined) return { host: status.host, port: status.pgPort };
        const known = addressesOf(this.#observation?.rulesets ?? []).find(({ id }) => id === node);
        return known === undefined ? undefined : { host: known.host, port: known.port };
      },
    };
  }

  #onEvent(event: CohortEvent): void {
    if (this.#stopped) return;
    const { log } = this.#options;
    const { address, status } = event.view;
    if (event.kind === "unreachable") {
      const node = status?.node ?? address;
      log.warn({ node, why: event.end.reason, detail: event.end.message }, `lost ${node}`);
    } else if (status !== undefined) {
      this.#tellTransition(event.previous, status);
      this.#shell.heard(status);
    }
    this.#consider();
  }

  /** INFO = a state changed. */
  #tellTransition(
    previous: CohortEvent["view"]["status"],
    status: NonNullable<CohortEvent["view"]["status"]>,
  ): void {
    const { node, postgres, state, term, promisedTerm, position } = status;
    const now = `${postgres}${state === null ? "" : ` ${state}`}`;
    const before =
      previous === undefined
        ? ""
        : `${previous.postgres}${previous.state === null ? "" : ` ${previous.state}`}`;
    if (now === before && previous?.term === term) return;
    const at = position === null ? {} : { position: formatPosition(position) };
    const why = status.lastExit !== null && postgres !== "running" ? { lastExit: status.lastExit } : {};
    this.#options.log.info({ node, term, promisedTerm, ...at, ...why }, `${node} is ${now}`);
  }

  /** Observe and decide; then act on what is to be done now, and wake up for what is to be done later. */
  #consider(): void {
    if (this.#stopped) return;
    const nowMs = this.#nowMs();
    this.#forgetBusy(nowMs);
    const seen = look(this.#memory, {
      nowMs,
      watched: this.#watcher.views(),
      zone: this.#options.zone,
      busy: new Set([...this.#busy].filter(([, { untilMs }]) => untilMs > nowMs).map(([node]) => node)),
      endedTerm: this.#endedTerm,
    });
    this.#memory = seen.memory;
    this.#observation = seen.observation;
    for (const text of seen.unreadable)
      this.#tell("unreadable", text, "a node reports a ruleset that can't be read");
    for (const { id, grpc } of addressesOf(seen.observation.rulesets)) this.#watcher.add(grpc, id);
    const { state, decisions } = detect(
      this.#detector,
      seen.observation,
      this.#options.detector ?? defaultDetectorOptions,
    );
    this.#detector = state;
    this.#decisions = decisions;
    this.#options.listener?.decisions(decisions);
    const wakeAtMs = decisions.map((decision) => this.#act(decision, seen.observation, nowMs));
    for (const { untilMs } of this.#busy.values()) if (untilMs > nowMs) wakeAtMs.push(untilMs);
    this.#wakeAt(Math.min(...wakeAtMs), nowMs);
  }

  #forgetBusy(nowMs: number): void {
    for (const [node, { untilMs, failures }] of this.#busy) {
      // A failure is remembered for a while longer than it blocks, so that the pauses grow.
      if (untilMs !== neverMs && untilMs + (failures > 0 ? maxRepairPauseMs : 0) <= nowMs)
        this.#busy.delete(node);
    }
  }

  #wakeAt(atMs: number, nowMs: number): void {
    clearTimeout(this.#timer);
    if (atMs === neverMs) return;
    this.#timer = setTimeout(() => this.#consider(), Math.max(1, Math.ceil(atMs - nowMs)));
  }

  /** Returns when to look again. */
  #act(decision: Decision, observation: Observation, nowMs: number): number {
    switch (decision.kind) {
      case "nothing":
        this.#told.delete(decision.row);
        return neverMs;
      case "waitUntil":
        if (decision.row === "change_impossible") this.#tell(decision.row, decision.reason, decision.reason);
        return decision.atMs;
      case "changeLeader":
        if (this.#shell.busy) return neverMs;
        if (nowMs < this.#notBeforeMs) return this.#notBeforeMs;
        void this.#changeLeader(decision, observation);
        return neverMs;
      case "repair":
        void this.#repair(decision, observation);
        return neverMs;
    }
  }

  /** WARN, once per text. */
  #tell(topic: string, text: string, message: string): void {
    if (this.#told.get(topic) === text) return;
    this.#told.set(topic, text);
    this.#options.log.warn({ topic }, message);
  }

  async #changeLeader(
    decision: Decision & { kind: "changeLeader" },
    observation: Observation,
  ): Promise<void> {
    const { log, listener } = this.#options;
    const startedMs = this.#nowMs();
    log.info({ row: decision.row, rank: observation.rank }, `changing the leader: ${decision.reason}`);
    const outcome = await this.#shell.change({
      reason: decision.reason,
      ...seenBefore(observation),
      jitter: this.#random(),
    });
    const durationMs = Math.round(this.#nowMs() - startedMs);
    listener?.change(outcome, durationMs);
    this.#record({
      kind: "leader_change",
      row: decision.row,
      reason: decision.reason,
      outcome:
        outcome.kind === "established" ? `${outcome.leader} leads term ${outcome.term}` : outcome.reason,
      ok: outcome.kind === "established",
      durationMs,
      term: outcome.term,
      inputs: inputsOf(observation),
    });
    if (outcome.kind === "established") {
      const { term, leader } = outcome;
      log.info({ term, leader, durationMs }, `${leader} leads term ${term}`);
    } else {
      const { term, retryAfterMs, reason } = outcome;
      log.warn({ term, durationMs, retryAfterMs }, `term ${term} came to nothing: ${reason}`);
      this.#notBeforeMs = this.#nowMs() + retryAfterMs;
      this.#endedTerm = term;
    }
    this.#consider();
  }

  async #repair(decision: Repair, observation: Observation): Promise<void> {
    const { node, action, reason, row } = decision;
    const failures = this.#busy.get(node)?.failures ?? 0;
    const { log, listener, policies = builtInPolicies } = this.#options;
    this.#busy.set(node, { untilMs: neverMs, failures });
    const startedMs = this.#nowMs();
    const tools = {
      directory: this.directory,
      coordinator: this.#options.id,
      changeLeader: (_from: NodeId, to: NodeId, why: string) => this.#handOver(to, why),
    };
    const { did, problem } = await repair(decision, observation, policies, tools).catch(
      (error: unknown): RepairResult => ({ did: undefined, problem: messageOf(error) }),
    );
    const durationMs = Math.round(this.#nowMs() - startedMs);
    const ok = problem === undefined;
    const fields = { node, durationMs, action, row };
    if (did !== undefined || !ok) listener?.repair(node, action, ok);
    if (!ok) log.warn({ ...fields, problem }, `could not repair ${node}: ${reason}`);
    else if (did !== undefined) log.info(fields, `${did}: ${reason}`);
    if (did !== undefined || (!ok && failures === 0))
      this.#record({
        kind: "repair",
        row,
        reason,
        outcome: problem ?? did ?? "",
        ok,
        durationMs,
        node,
        inputs: inputsOf(observation),
      });
    const now = ok ? 0 : failures + 1;
    this.#busy.set(node, { untilMs: this.#nowMs() + repairPauseMs(now), failures: now });
    this.#consider();
  }

  /** Told to every node in reach, and waited for by nobody. */
  #record(event: Parameters<AuditTrail["record"]>[0]): void {
    void this.#audit.record(event).then((count) => {
      if (count === 0) this.#options.log.warn({ event }, "no node keeps this event");
    });
  }

  /** For the sake of a repair: an ordinary leader change to this node. */
  async #handOver(to: NodeId, reason: string): Promise<string | undefined> {
    const observation = this.#observation;
    if (observation === undefined || this.#shell.busy) return "a leader change is under way";
    const outcome = await this.#shell.change({
      reason,
      candidate: to,
      ...seenBefore(observation),
      jitter: this.#random(),
    });
    return outcome.kind === "established" ? undefined : outcome.reason;
  }
}
