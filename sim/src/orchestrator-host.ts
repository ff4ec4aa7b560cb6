// One orchestrator process: the real failure table (detect), the real coordinator (stepCoordinator) and the real
// planned change, over the simulated network.

import {
  term as asTerm,
  beginPlannedChange,
  type Call,
  type CallResult,
  type ChangeRequest,
  type CoordinatorEvent,
  type CoordinatorOptions,
  type CoordinatorState,
  coordinatorId,
  type Decision,
  type DetectorOptions,
  type DetectorState,
  detect,
  distinctRulesets,
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
  type PlannedChangeEvent,
  type PlannedChangeState,
  type PlannedChangeStep,
  planRulesetChange,
  type Ruleset,
  stepCoordinator,
  stepPlannedChange,
  type Term,
} from "@quorate/consensus";
import { Freezer } from "./freezer.ts";
import type { Status } from "./node-host.ts";
import type { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";

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
}

export const simCoordinatorOptions: CoordinatorOptions = {
  graceMs: 5,
  recruitTimeoutMs: 250,
  fetchTimeoutMs: 800,
  electTimeoutMs: 500,
  followTimeoutMs: 800,
  establishTimeoutMs: 1_200,
  backoffMinMs: 30,
  backoffMaxMs: 1_000,
};

/** For the storms: attempts come and go quickly. */
export const hastyCoordinatorOptions: CoordinatorOptions = {
  graceMs: 2,
  recruitTimeoutMs: 40,
  fetchTimeoutMs: 80,
  electTimeoutMs: 60,
  followTimeoutMs: 200,
  establishTimeoutMs: 150,
  backoffMinMs: 10,
  backoffMaxMs: 500,
};

export const simDetectorOptions: DetectorOptions = {
  silentMs: 900,
  noLeaderHoldMs: 400,
  attemptMs: 600,
  establishMs: 1_500,
  deadPromiseMs: 1_500,
  repairHoldMs: 500,
  stuckMs: 3_000,
  lagBytes: 1_000,
  finishHoldMs: 700,
  staggerMs: 60,
};

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
  readonly rank: number;
  readonly #host: OrchestratorHost;
  readonly #random: Random;
  #run = 0;
  #up = false;
  readonly #freezer: Freezer;
  #detector: DetectorState = initialDetector;
  #coordinator: CoordinatorState = initialCoordinator(coordinatorId("none"));
  #seen = new Map<NodeId, Seen>();
  #busy = new Set<NodeId>();
  #planned: PlannedChangeState | null = null;
  #lookPlannedAtMs = Number.POSITIVE_INFINITY;
  #notBeforeMs = 0;
  #endedTerm: Term = noTerm;
  #rulesets: Ruleset[] = [];
  /** Switched off, it changes leaders only when told to: the sharpest test of the protocol alone. */
  automatic = true;
  hasty = false;

  constructor(name: string, rank: number, host: OrchestratorHost, seed: number) {
    this.name = name;
    this.rank = rank;
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
    this.#planned = null;
    this.#lookPlannedAtMs = Number.POSITIVE_INFINITY;
    this.#notBeforeMs = 0;
    this.#rulesets = [];
    this.#host.watch(this.name);
    this.#lookAt(this.#host.queue.nowMs + 50);
  }

  #options(): CoordinatorOptions {
    return this.hasty ? hastyCoordinatorOptions : simCoordinatorOptions;
  }

  calm(): void {
    this.automatic = true;
    this.hasty = false;
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
      const nowMs = this.#host.queue.nowMs;
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
      this.#feedPlanned({ kind: "progress", node, leader, term, flushedLsn: lsn(status.flushedLsn) });
      this.#lookAt(nowMs + 10);
    })();
  }

  onReset(node: NodeId): void {
    this.#guard(() => {
      const seen = this.#seen.get(node);
      if (seen !== undefined) {
        seen.connected = false;
        seen.resetAtMs = this.#host.queue.nowMs;
        seen.linkSinceMs = this.#host.queue.nowMs;
        this.#lookAt(this.#host.queue.nowMs + 10);
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
    const nowMs = this.#host.queue.nowMs;
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
    return {
      nowMs,
      nodes,
      rulesets: this.#rulesets.slice(-1),
      rank: this.rank,
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
    this.#host.queue.at(
      atMs,
      this.#guard(() => {
        if (this.#lookPlannedAtMs === atMs) {
          this.#lookPlannedAtMs = Number.POSITIVE_INFINITY;
          this.#look();
        }
      }),
    );
  }

  #look(): void {
    const nowMs = this.#host.queue.nowMs;
    this.#lookAt(nowMs + 300);
    if (this.#coordinator.attempt !== null || this.#planned !== null) {
      return;
    }
    const { state, decisions } = detect(this.#detector, this.#observation(), simDetectorOptions);
    this.#detector = state;
    for (const decision of decisions) {
      this.#act(decision);
    }
  }

  #act(decision: Decision): void {
    const nowMs = this.#host.queue.nowMs;
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

  #repair({ node, action, leader, reason }: Extract<Decision, { kind: "repair" }>): void {
    if (action === "replace") {
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
      member: true,
    };
    this.#host.request(
      this.name,
      node,
      request,
      700,
      this.#guard2((ok) => {
        this.#host.queue.after(
          ok ? 20 : 200,
          this.#guard(() => {
            this.#busy.delete(node);
            this.#lookAt(this.#host.queue.nowMs + 1);
          }),
        );
      }),
    );
  }

  #guard2(action: (ok: boolean, lsnValue: number) => void): (ok: boolean, lsnValue: number) => void {
    const run = this.#run;
    return (ok, value) => {
      if (this.#run === run) {
        this.#guard(() => action(ok, value))();
      }
    };
  }

  // ---- leader changes

  /** Begins a leader change now, whatever the failure table says. */
  begin(reason: string, more: Partial<ChangeRequest> = {}): boolean {
    if (!this.#up || this.#coordinator.attempt !== null || this.#rulesets.length === 0) {
      return false;
    }
    const request: ChangeRequest = {
      reason,
      rulesets: this.#rulesets,
      highestTerm: highestTerm(this.#observation()),
      jitter: this.#random.fraction(),
      ...more,
    };
    this.#feed({ kind: "begin", request });
    return true;
  }

  get newestRuleset(): Ruleset | null {
    return this.#rulesets.at(-1) ?? null;
  }

  get idle(): boolean {
    return this.#up && this.#coordinator.attempt === null && this.#planned === null;
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
          this.#host.queue.after(
            afterMs,
            this.#guard(() => this.#feed({ kind: "timer", timerId })),
          );
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
      this.#notBeforeMs = this.#host.queue.nowMs + outcome.retryAfterMs;
    } else {
      this.#learnRuleset(outcome.ruleset);
    }
    if (this.#planned !== null) {
      this.#feedPlanned({ kind: "changed", outcome });
    }
    this.#lookAt(this.#host.queue.nowMs + 5);
  }

  // ---- operators

  #leaderNow(): { id: NodeId; status: Status } | null {
    for (const [id, { status }] of this.#seen) {
      if (status?.view.state === "leader") {
        return { id, status };
      }
    }
    return null;
  }

  switchover(to: NodeId): void {
    const leader = this.#leaderNow();
    if (!this.idle || leader === null) {
      return;
    }
    const options = { quiesceTimeoutMs: 300, catchUpTimeoutMs: 400 };
    const request = {
      leader: leader.id,
      term: leader.status.view.term,
      to,
      reason: `switchover to ${to}`,
      options,
    };
    this.#performPlanned(beginPlannedChange(request));
  }

  #feedPlanned(event: PlannedChangeEvent): void {
    if (this.#planned !== null) {
      this.#performPlanned(stepPlannedChange(this.#planned, event));
    }
  }

  #performPlanned({ state, effects }: PlannedChangeStep): void {
    this.#planned = state;
    for (const effect of effects) {
      switch (effect.kind) {
        case "quiesce": {
          const { on, term, timeoutMs } = effect;
          const done = this.#guard2((ok, value) => {
            if (on) {
              this.#feedPlanned(
                ok ? { kind: "quiesced", lsn: lsn(value) } : { kind: "quiesceFailed", reason: "no answer" },
              );
            }
          });
          this.#host.request(
            this.name,
            effect.node,
            { kind: "quiesce", term, on, timeoutMs },
            timeoutMs,
            done,
          );
          break;
        }
        case "timer":
          this.#host.queue.after(
            effect.afterMs,
            this.#guard(() => this.#feedPlanned({ kind: "timer" })),
          );
          break;
        case "changeLeader":
          if (!this.begin(effect.reason, { candidate: effect.candidate })) {
            const outcome: Outcome = {
              kind: "failed",
              term: noTerm,
              reason: "busy",
              shortages: [],
              retryAfterMs: 0,
              highestTerm: noTerm,
            };
            this.#feedPlanned({ kind: "changed", outcome });
          }
          break;
        case "finished":
          this.#host.trace(`${this.name} planned change: ${effect.reason}`);
          this.#planned = null;
          break;
        default:
          effect satisfies never;
      }
    }
  }

  /** Leader method: the new ruleset as made from the newest one. */
  changeRuleset(make: (current: Ruleset) => Ruleset | null, tries = 5): void {
    const leader = this.#leaderNow();
    const current = leader?.status.view.ruleset ?? null;
    const wanted = current === null ? null : make(current);
    if (!this.#up || leader === null || current === null || wanted === null) {
      return;
    }
    const { term, followers } = leader.status.view;
    const streaming = new Set(followers.filter((each) => each.member).map((each) => each.node));
    const plan = planRulesetChange({ leader: leader.id, term, current, pending: null, wanted, streaming });
    if (!plan.ok && plan.code === "node_not_ready" && tries > 0) {
      this.#makeMembers(leader.id, term, wanted, streaming);
      this.#host.queue.after(
        150,
        this.#guard(() => this.changeRuleset(make, tries - 1)),
      );
      return;
    }
    if (!plan.ok) {
      this.#host.trace(`${this.name} ruleset ${wanted.version} refused: ${plan.message}`);
      return;
    }
    this.#host.trace(`${this.name} asks ${leader.id} for ruleset ${wanted.version}`);
    const request: NodeRequest = {
      kind: "changeRuleset",
      term,
      rule: plan.rule,
      ruleset: plan.ruleset,
      timeoutMs: 800,
    };
    this.#host.request(this.name, leader.id, request, 800, () => undefined);
  }

  /** An observer that joins the cohort first streams as a member. */
  #makeMembers(leader: NodeId, term: Term, wanted: Ruleset, streaming: ReadonlySet<NodeId>): void {
    for (const { id } of wanted.cohort) {
      if (id !== leader && !streaming.has(id)) {
        const request: NodeRequest = {
          kind: "follow",
          term,
          coordinator: this.#coordinator.id,
          leader,
          member: true,
        };
        this.#host.request(this.name, id, request, 500, () => undefined);
      }
    }
  }

  /** Coordinator method. */
  changeByCoordinator(make: (current: Ruleset) => Ruleset | null): void {
    const current = this.newestRuleset;
    const wanted = current === null ? null : make(current);
    if (wanted !== null && this.idle) {
      this.begin(`coordinator brings in ruleset ${wanted.version}`, { newRuleset: wanted });
    }
  }
}

export { asTerm };
