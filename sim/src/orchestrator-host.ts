// One orchestrator process: the real failure table (detect), the real coordinator (stepCoordinator) and the real
// planned change, over the simulated network.

import {
  builtInPolicies,
  type Call,
  type CallResult,
  type ChangeRequest,
  type CoordinatorEvent,
  type CoordinatorOptions,
  type CoordinatorState,
  claimOf,
  coordinatorId,
  type Decision,
  type DetectorState,
  detect,
  distinctRulesets,
  goalOfIntent,
  goalOfRepair,
  highestTerm,
  initialCoordinator,
  initialDetector,
  lsn,
  type NodeId,
  type NodeRequest,
  noTerm,
  type Observation,
  type Observed,
  type Outcome,
  type Ruleset,
  rankOf,
  rulesetsInForce,
  stepCoordinator,
  type Term,
} from "@quorate/consensus";
import { Clock } from "./clock.ts";
import { Freezer } from "./freezer.ts";
import type { Status } from "./machine-status.ts";
import { OperatorDesk } from "./operator-desk.ts";
import type { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";
import {
  hastyCoordinatorOptions,
  patientCoordinatorOptions,
  simCoordinatorOptions,
  simDetectorOptions,
} from "./sim-options.ts";

export interface OrchestratorHost {
  readonly queue: EventQueue;
  readonly nodes: readonly NodeId[];
  readonly call: (from: string, call: Call, done: (result: CallResult) => void) => void;
  readonly request: (
    from: string,
    node: NodeId,
    request: NodeRequest,
    timeoutMs: number,
    done: (ok: boolean, lsn: number) => void,
  ) => void;
  readonly trace: (text: string) => void;
  /** Asks every node for its status at once. */
  readonly watch: (from: string) => void;
  readonly attemptEnded: (ok: boolean) => void;
  /** An operator's stop, and a restart, of that node's Postgres. */
  readonly stop: (node: NodeId) => void;
  readonly restart: (node: NodeId) => void;
}

interface Seen {
  status: Status | null;
  atMs: number;
  connected: boolean;
  linkSinceMs: number;
  promiseRoseAtMs: number;
  resetAtMs: number;
}

export class Orchestrator {
  readonly name: string;
  readonly zone: string;
  readonly #host: OrchestratorHost;
  readonly #random: Random;
  #run = 0;
  #up = false;
  readonly #freezer: Freezer;
  readonly #clock: Clock;
  readonly #desk: OperatorDesk;
  #detector: DetectorState = initialDetector;
  #coordinator: CoordinatorState = initialCoordinator(coordinatorId("none"));
  #seen = new Map<NodeId, Seen>();
  #busy = new Set<NodeId>();
  #lookPlannedAtMs = Number.POSITIVE_INFINITY;
  #notBeforeMs = 0;
  #endedTerm: Term = noTerm;
  #rulesets: Ruleset[] = [];
  /** Switched off, it changes leaders only when told to: the sharpest test of the protocol alone. */
  automatic = true;
  pace: "calm" | "hasty" | "patient" = "calm";

  constructor(name: string, zone: string, host: OrchestratorHost, seed: number, clock = new Clock(1)) {
    this.name = name;
    this.#clock = clock;
    this.#desk = new OperatorDesk({
      name,
      nowMs: () => this.#nowMs,
      after: (localMs, action) => this.#after(localMs, action),
      up: () => this.#up,
      idle: () => this.idle,
      observation: () => ({ ...this.#observation(), busy: new Set() }),
      newestRuleset: () => this.newestRuleset,
      coordinator: () => this.#coordinator.id,
      begin: (reason, more) => this.begin(reason, more),
      request: (node, request, timeoutMs, done) => this.#request(node, request, timeoutMs, done),
      stop: (node) => host.stop(node),
      trace: host.trace,
    });
    this.zone = zone;
    this.#host = host;
    this.#random = Random.stream(seed, `orchestrator ${name}`);
    this.#freezer = new Freezer(host.queue);
  }

  start(): void {
    if (this.#up) {
      return;
    }
    this.#run += 1;
    this.#up = true;
    this.#detector = initialDetector;
    this.#coordinator = initialCoordinator(coordinatorId(`${this.name}.${this.#run}`), this.#options());
    this.#seen = new Map();
    this.#busy = new Set();
    this.#desk.forget();
    this.#lookPlannedAtMs = Number.POSITIVE_INFINITY;
    this.#notBeforeMs = 0;
    this.#rulesets = [];
    this.#host.watch(this.name);
    this.#lookAt(this.#nowMs + 50);
  }

  #options(): CoordinatorOptions {
    switch (this.pace) {
      case "calm":
        return simCoordinatorOptions;
      case "hasty":
        return hastyCoordinatorOptions;
      case "patient":
        return patientCoordinatorOptions;
      default:
        return this.pace satisfies never;
    }
  }

  calm(): void {
    this.automatic = true;
    this.pace = "calm";
    this.#desk.forget();
    this.#coordinator = { ...this.#coordinator, options: this.#options() };
  }

  crash(): void {
    this.#up = false;
    this.#run += 1;
    this.#freezer.clear();
  }

  freeze(ms: number): void {
    if (this.#up) {
      this.#freezer.freeze(ms);
    }
  }

  thaw(): void {
    this.#freezer.thaw();
  }

  #guard(action: () => void): () => void {
    const run = this.#run;
    const alive = (): boolean => this.#run === run && this.#up;
    return () => {
      if (alive()) {
        this.#freezer.run(() => {
          if (alive()) {
            action();
          }
        });
      }
    };
  }

  // ---- what it sees

  onStatus(node: NodeId, status: Status): void {
    this.#guard(() => {
      const nowMs = this.#nowMs;
      const seen = this.#seen.get(node);
      if (
        seen?.status !== undefined &&
        seen.status !== null &&
        seen.connected &&
        seen.status.seq > status.seq
      ) {
        return;
      }
      const rose = status.view.promisedTerm > (seen?.status?.view.promisedTerm ?? status.view.promisedTerm);
      this.#seen.set(node, {
        status,
        atMs: nowMs,
        connected: true,
        linkSinceMs: seen?.connected === true ? seen.linkSinceMs : nowMs,
        promiseRoseAtMs: rose ? nowMs : (seen?.promiseRoseAtMs ?? -1e9),
        resetAtMs: -1,
      });
      this.#learnRuleset(status.view.ruleset);
      const { state, term, promisedTerm, postgres } = status.view;
      const running = postgres === "running" || postgres === "starting";
      this.#feed({ kind: "status", node, state, term, promisedTerm, running });
      const { leader } = status.view;
      this.#desk.feed({ kind: "progress", node, leader, term, flushedLsn: lsn(status.flushedLsn) });
      this.#lookAt(nowMs + 10);
    })();
  }

  onReset(node: NodeId): void {
    this.#guard(() => {
      const seen = this.#seen.get(node);
      if (seen !== undefined) {
        seen.connected = false;
        seen.resetAtMs = this.#nowMs;
        seen.linkSinceMs = this.#nowMs;
        this.#lookAt(this.#nowMs + 10);
      }
    })();
  }

  #learnRuleset(ruleset: Ruleset | null): void {
    if (
      ruleset !== null &&
      !this.#rulesets.some((known) => known.version === ruleset.version && known.name === ruleset.name)
    ) {
      this.#rulesets = distinctRulesets([...this.#rulesets, ruleset])
        .sort((a, b) => a.version - b.version)
        .slice(-4);
    }
  }

  #observation(): Observation {
    const nowMs = this.#nowMs;
    const nodes = new Map<NodeId, Observed>();
    for (const [id, seen] of this.#seen) {
      const silent = nowMs - seen.atMs > 950;
      const link = seen.resetAtMs >= 0 ? "reset" : silent ? "silent" : "connected";
      nodes.set(id, {
        id,
        link,
        linkSinceMs: link === "silent" ? seen.atMs + 950 : seen.linkSinceMs,
        view: seen.status?.view ?? null,
        viewAtMs: seen.atMs,
        promiseRoseAtMs: seen.promiseRoseAtMs,
      });
    }
    const rulesets = rulesetsInForce(this.#rulesets);
    return {
      nowMs,
      nodes,
      rulesets,
      rank: rankOf(this.zone, rulesets, [...nodes.values()]),
      endedTerm: this.#endedTerm,
      busy: this.#busy,
    };
  }

  // ---- what it decides

  #lookAt(atMs: number): void {
    if (atMs >= this.#lookPlannedAtMs - 0.001) {
      return;
    }
    this.#lookPlannedAtMs = atMs;
    this.#after(atMs - this.#nowMs, () => {
      if (this.#lookPlannedAtMs === atMs) {
        this.#lookPlannedAtMs = Number.POSITIVE_INFINITY;
        this.#look();
      }
    });
  }

  #look(): void {
    const nowMs = this.#nowMs;
    this.#lookAt(nowMs + 300);
    if (this.#coordinator.attempt !== null || this.#desk.changesLeader) {
      return;
    }
    const { state, decisions } = detect(this.#detector, this.#observation(), simDetectorOptions);
    this.#detector = state;
    for (const decision of decisions) {
      this.#act(decision);
    }
  }

  #act(decision: Decision): void {
    const nowMs = this.#nowMs;
    switch (decision.kind) {
      case "nothing":
        return;
      case "waitUntil":
        this.#lookAt(decision.atMs + 0.01);
        return;
      case "changeLeader":
        if (!this.automatic) {
          return;
        }
        if (nowMs < this.#notBeforeMs) {
          this.#lookAt(this.#notBeforeMs + 0.01);
          return;
        }
        this.begin(decision.reason);
        return;
      case "repair":
        this.#repair(decision);
        return;
      default:
        decision satisfies never;
    }
  }

  #repair({ node, action, leader, member, reason }: Extract<Decision, { kind: "repair" }>): void {
    if (action === "replace" || action === "finish") {
      this.#changeCohort(node, leader, action);
      return;
    }
    if (action === "restart") {
      this.#busy.add(node);
      this.#host.restart(node);
      this.#after(300, () => this.#released(node));
      return;
    }
    const term = this.#seen.get(leader)?.status?.view.term ?? noTerm;
    this.#busy.add(node);
    this.#host.trace(`${this.name} ${action} ${node}: ${reason}`);
    const request: NodeRequest = {
      kind: "follow",
      term,
      coordinator: this.#coordinator.id,
      leader,
      member,
    };
    this.#request(node, request, 700, (ok) => this.#after(ok ? 20 : 200, () => this.#released(node)));
  }

  /** A lost node is let go, copied, and joins again; a change that somebody left behind is finished. */
  #changeCohort(node: NodeId, leader: NodeId, action: "replace" | "finish"): void {
    const ruleset = this.#seen.get(leader)?.status?.view.ruleset;
    const goal =
      ruleset === null || ruleset === undefined
        ? null
        : (action === "replace" ? goalOfRepair : goalOfIntent)(ruleset, builtInPolicies);
    if (goal === null || this.#desk.atWork) {
      return;
    }
    this.#busy.add(node);
    this.#desk.pursue(goal, 3_000, () => this.#after(200, () => this.#released(node)));
  }

  #released(node: NodeId): void {
    this.#busy.delete(node);
    this.#lookAt(this.#nowMs + 1);
  }

  #request(
    node: NodeId,
    request: NodeRequest,
    timeoutMs: number,
    done: (ok: boolean, lsnValue: number) => void,
  ): void {
    const run = this.#run;
    this.#host.request(this.name, node, request, timeoutMs, (ok, value) => {
      if (this.#run === run) {
        this.#guard(() => done(ok, value))();
      }
    });
  }

  /** On its own clock. */
  get #nowMs(): number {
    return this.#clock.monotonicMs(this.#host.queue.nowMs);
  }

  #after(localMs: number, action: () => void): void {
    this.#host.queue.after(this.#clock.worldDelayMs(localMs), this.#guard(action));
  }

  // ---- leader changes

  /** Begins a leader change now, whatever the failure table says. */
  begin(reason: string, more: Partial<ChangeRequest> = {}): boolean {
    if (!this.#up || this.#coordinator.attempt !== null || this.#rulesets.length === 0) {
      return false;
    }
    const observation = this.#observation();
    const claim = claimOf(observation);
    const request: ChangeRequest = {
      reason,
      rulesets: this.#rulesets,
      highestTerm: highestTerm(observation),
      jitter: this.#random.fraction(),
      ...(claim === null ? {} : { leader: claim }),
      ...more,
    };
    this.#feed({ kind: "begin", request });
    return true;
  }

  get newestRuleset(): Ruleset | null {
    return this.#rulesets.at(-1) ?? null;
  }

  /** A leader change is under way that brings in a ruleset. */
  get newRules(): boolean {
    return this.#coordinator.attempt?.request.newRuleset !== undefined;
  }

  get idle(): boolean {
    return this.#up && this.#coordinator.attempt === null && !this.#desk.changesLeader;
  }

  #feed(event: CoordinatorEvent): void {
    const { state, effects } = stepCoordinator(this.#coordinator, event);
    this.#coordinator = state;
    for (const effect of effects) {
      switch (effect.kind) {
        case "call": {
          const { call } = effect;
          const run = this.#run;
          this.#host.call(this.name, call, (result) => {
            if (this.#run === run) {
              this.#guard(() => this.#feed({ kind: "reply", callId: call.id, result }))();
            }
          });
          break;
        }
        case "timer": {
          const { timerId, afterMs } = effect;
          this.#after(afterMs, () => this.#feed({ kind: "timer", timerId }));
          break;
        }
        case "note":
          this.#host.trace(`${this.name} ${effect.text}`);
          break;
        case "finished":
          this.#finished(effect.outcome);
          break;
        default:
          effect satisfies never;
      }
    }
  }

  #finished(outcome: Outcome): void {
    this.#host.attemptEnded(outcome.kind === "established");
    if (outcome.kind === "failed") {
      this.#endedTerm = outcome.term;
      this.#notBeforeMs = this.#nowMs + outcome.retryAfterMs;
    } else {
      this.#learnRuleset(outcome.ruleset);
    }
    this.#desk.feed({ kind: "changed", outcome });
    this.#lookAt(this.#nowMs + 5);
  }

  get desk(): OperatorDesk {
    return this.#desk;
  }
}
