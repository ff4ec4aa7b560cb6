// What operators ask of one orchestrator: hand over the lead, change the rules, add, remove and replace nodes. The
// decisions are the core's (planned-change.ts, ruleset-change.ts, cohort-change.ts); this performs their effects.

import {
  beginPlannedChange,
  type ChangeRequest,
  type CohortGoal,
  type CoordinatorId,
  leaderOf,
  lsn,
  type NodeId,
  type NodeRequest,
  nextCohortStep,
  noTerm,
  type Observation,
  type Outcome,
  type PlannedChangeEffect,
  type PlannedChangeEvent,
  type PlannedChangeState,
  type PlannedChangeStep,
  planRulesetChange,
  type Ruleset,
  stepPlannedChange,
  type Term,
} from "@quorate/consensus";
import { simCohortOptions } from "./sim-options.ts";

export interface DeskHost {
  readonly name: string;
  readonly nowMs: () => number;
  readonly after: (localMs: number, action: () => void) => void;
  readonly up: () => boolean;
  readonly idle: () => boolean;
  readonly observation: () => Observation;
  readonly newestRuleset: () => Ruleset | null;
  readonly coordinator: () => CoordinatorId;
  readonly begin: (reason: string, more: Partial<ChangeRequest>) => boolean;
  readonly request: (
    node: NodeId,
    request: NodeRequest,
    timeoutMs: number,
    done: (ok: boolean, lsn: number) => void,
  ) => void;
  readonly stop: (node: NodeId) => void;
  readonly trace: (text: string) => void;
}

const lookAgainMs = 50;

export class OperatorDesk {
  readonly #host: DeskHost;
  #planned: PlannedChangeState | null = null;
  #errand = 0;
  #atWork = false;

  constructor(host: DeskHost) {
    this.#host = host;
  }

  get changesLeader(): boolean {
    return this.#planned !== null;
  }

  /** A change of the cohort is under way here. */
  get atWork(): boolean {
    return this.#atWork;
  }

  /** The process started anew. */
  forget(): void {
    this.#planned = null;
    this.#atWork = false;
    this.#errand += 1;
  }

  #leader(): {
    readonly id: NodeId;
    readonly term: Term;
    readonly view: NonNullable<ReturnType<typeof leaderOf>>["view"];
  } | null {
    const leader = leaderOf(this.#host.observation());
    return leader?.standing === "leads" ? { id: leader.id, term: leader.term, view: leader.view } : null;
  }

  // ---- a planned leader change

  switchover(to: NodeId): boolean {
    const leader = this.#leader();
    if (!this.#host.idle() || leader === null) {
      return false;
    }
    const options = { quiesceTimeoutMs: 300, catchUpTimeoutMs: 400 };
    const { id, term } = leader;
    this.#perform(beginPlannedChange({ leader: id, term, to, reason: `switchover to ${to}`, options }));
    return true;
  }

  feed(event: PlannedChangeEvent): void {
    if (this.#planned !== null) {
      this.#perform(stepPlannedChange(this.#planned, event));
    }
  }

  #perform({ state, effects }: PlannedChangeStep): void {
    this.#planned = state;
    for (const effect of effects) {
      switch (effect.kind) {
        case "quiesce":
          this.#quiesce(effect);
          break;
        case "timer":
          this.#host.after(effect.afterMs, () => this.feed({ kind: "timer" }));
          break;
        case "changeLeader":
          if (!this.#host.begin(effect.reason, { candidate: effect.candidate })) {
            this.feed({ kind: "changed", outcome: busy });
          }
          break;
        case "finished":
          this.#host.trace(`${this.#host.name} planned change: ${effect.reason}`);
          this.#planned = null;
          break;
        default:
          effect satisfies never;
      }
    }
  }

  #quiesce({ node, term, on, timeoutMs }: PlannedChangeEffect & { kind: "quiesce" }): void {
    this.#host.request(node, { kind: "quiesce", term, on, timeoutMs }, timeoutMs, (ok, value) => {
      if (on) {
        const failed: PlannedChangeEvent = { kind: "quiesceFailed", reason: "no answer" };
        this.feed(ok ? { kind: "quiesced", lsn: lsn(value) } : failed);
      }
    });
  }

  // ---- rules

  /** Leader method: the new ruleset as made from the newest one. */
  changeRuleset(make: (current: Ruleset) => Ruleset | null, tries = 5): void {
    const leader = this.#leader();
    const current = leader?.view.ruleset ?? null;
    const wanted = current === null ? null : make(current);
    if (!this.#host.up() || leader === null || current === null || wanted === null) {
      return;
    }
    const { id, term, view } = leader;
    const streaming = new Set(view.followers.filter((each) => each.member).map((each) => each.node));
    const plan = planRulesetChange({ leader: id, term, current, pending: null, wanted, streaming });
    if (!plan.ok && plan.code === "node_not_ready" && tries > 0) {
      this.#makeMembers(id, term, wanted, streaming);
      this.#host.after(150, () => this.changeRuleset(make, tries - 1));
      return;
    }
    if (!plan.ok) {
      this.#host.trace(`${this.#host.name} ruleset ${wanted.version} refused: ${plan.message}`);
      return;
    }
    this.#host.trace(`${this.#host.name} asks ${id} for ruleset ${wanted.version}`);
    const { rule, ruleset } = plan;
    const request: NodeRequest = { kind: "changeRuleset", term, rule, ruleset, timeoutMs: 800 };
    this.#host.request(id, request, 800, () => undefined);
  }

  /** An observer that joins the cohort first streams as a member. */
  #makeMembers(leader: NodeId, term: Term, wanted: Ruleset, streaming: ReadonlySet<NodeId>): void {
    for (const { id } of wanted.cohort) {
      if (id !== leader && !streaming.has(id)) {
        this.#follow(id, leader, term, true, () => undefined);
      }
    }
  }

  #follow(id: NodeId, leader: NodeId, term: Term, member: boolean, done: () => void): void {
    const coordinator = this.#host.coordinator();
    this.#host.request(id, { kind: "follow", term, coordinator, leader, member }, 700, done);
  }

  /** Coordinator method. */
  changeByCoordinator(make: (current: Ruleset) => Ruleset | null): void {
    const current = this.#host.newestRuleset();
    const wanted = current === null ? null : make(current);
    if (wanted !== null && this.#host.idle()) {
      this.#host.begin(`coordinator brings in ruleset ${wanted.version}`, { newRuleset: wanted });
    }
  }

  // ---- the cohort

  /** Step by step until the goal is reached or refused, or the time is over. */
  pursue(goal: CohortGoal, forMs: number, ended: () => void): void {
    this.#errand += 1;
    this.#atWork = true;
    this.#step(goal, this.#errand, this.#host.nowMs() + forMs, ended);
  }

  #step(goal: CohortGoal, errand: number, deadlineMs: number, ended: () => void): void {
    const host = this.#host;
    if (errand !== this.#errand) {
      ended();
      return;
    }
    const step = nextCohortStep(goal, host.observation(), simCohortOptions);
    const over = host.nowMs() >= deadlineMs;
    if (step.kind === "done" || step.kind === "refused" || over) {
      host.trace(`${host.name} cohort: ${step.kind}${over ? " (given up)" : ""}: ${step.reason}`);
      this.#atWork = false;
      ended();
      return;
    }
    const again = (ms = lookAgainMs): void =>
      host.after(ms, () => this.#step(goal, errand, deadlineMs, ended));
    if (step.kind !== "wait") {
      host.trace(`${host.name} cohort: ${step.kind}: ${step.reason}`);
    }
    switch (step.kind) {
      case "wait":
        again();
        return;
      case "follow":
        this.#follow(step.node, step.leader, step.term, step.member, () => again(20));
        return;
      case "changeRuleset": {
        const { leader, term, rule, ruleset } = step;
        const request: NodeRequest = { kind: "changeRuleset", term, rule, ruleset, timeoutMs: 800 };
        host.request(leader, request, 800, () => again(20));
        return;
      }
      case "changeLeader":
        this.switchover(step.to);
        again(200);
        return;
      case "stop":
        host.stop(step.node);
        again();
        return;
      default:
        step satisfies never;
    }
  }
}

const busy: Outcome = {
  kind: "failed",
  term: noTerm,
  reason: "busy",
  shortages: [],
  retryAfterMs: 0,
  highestTerm: noTerm,
};
