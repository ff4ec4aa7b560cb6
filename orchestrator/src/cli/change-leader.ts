// quorate switchover, quorate failover: this process is a coordinator like the orchestrators, and runs the same core.
import { setTimeout as delay } from "node:timers/promises";
import { createLogger, messageOf } from "@quorate/common";
import {
  beginPlannedChange,
  defaultPlannedChangeOptions,
  type NodeId,
  noLsn,
  type PlannedChangeEffect,
  type PlannedChangeEvent,
  type PlannedChangeState,
  stepPlannedChange,
} from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";
import { leaderAmong } from "../cluster/bring-up-step.ts";
import { findNode, openCluster } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { CohortSession } from "../shell/cohort-session.ts";
import { chooseSuccessor } from "../successor.ts";
import { isStreaming } from "../view.ts";
import { type LeaderPlanInput, leaderPlan } from "./leader-plan.ts";
import { grpcAddress } from "./sightings.ts";
import { answer, say } from "./voice.ts";

const hearTimeoutMs = 3_000;
const changeTimeoutMs = 30_000;
const regroupTimeoutMs = 15_000;
const progressDeadlineMs = 500;
const progressIntervalMs = 5;

interface Situation {
  readonly session: CohortSession;
  readonly leader: NodeStatus | undefined;
  readonly to: NodeId;
  readonly startedMs: number;
}

async function withSituation(
  dir: string,
  wished: string | undefined,
  act: (situation: Situation) => Promise<void>,
): Promise<void> {
  const cluster = openCluster(dir);
  if (wished !== undefined) findNode(cluster, wished);
  const session = new CohortSession({
    addresses: cluster.file.nodes.map(grpcAddress),
    log: createLogger({ name: "cli", level: "silent" }),
    onNote: (text) => say(`  ${text}`),
  });
  try {
    await session.waitFor(() => session.everybodyHeard(), hearTimeoutMs);
    if (session.statuses().length === 0) {
      throw orchestratorErrors.error(
        "not_running",
        `the cluster in ${dir} does not run: start it with "quorate up"`,
      );
    }
    const leader = leaderAmong(session.statuses());
    const flushed = new Map(session.statuses().map((status) => [status.node, status.flushedLsn ?? noLsn]));
    const to = chooseSuccessor({
      observation: session.observation(),
      leader: leader?.node,
      flushed,
      ...(wished === undefined ? {} : { to: wished }),
    });
    await act({ session, leader, to, startedMs: performance.now() });
  } finally {
    session.close();
  }
}

/** The leader changed; wait until all in reach stream from it, so that the next errand finds a whole cluster. */
async function regroup({ session, to, startedMs }: Situation): Promise<void> {
  const tookMs = Math.round(performance.now() - startedMs);
  const waiting = (): NodeId[] => {
    const leader = leaderAmong(session.statuses());
    return session
      .statuses()
      .filter(
        (status) => status.node !== leader?.node && !status.operatorStopped && status.postgres !== "absent",
      )
      .filter((status) => !isStreaming(status, leader))
      .map((status) => status.node);
  };
  await session.waitFor(() => waiting().length === 0 || undefined, regroupTimeoutMs);
  const term = leaderAmong(session.statuses())?.term;
  say(`${to} leads term ${term} after ${tookMs} ms`);
  const late = waiting();
  answer({ leader: to, term: term ?? null, durationMs: tookMs, late });
  if (late.length > 0) say(`${late.join(", ")} did not follow yet; the orchestrators see to it`);
}

export interface LeaderOptions {
  readonly to?: string;
  readonly dryRun?: boolean;
}

/** Changes nothing. */
function showPlan(verb: LeaderPlanInput["verb"], { session, leader, to }: Situation): void {
  const end = leader?.flushedLsn ?? noLsn;
  const has = session.status(to)?.flushedLsn ?? noLsn;
  const steps = leaderPlan({
    verb,
    leader: leader === undefined ? null : { id: leader.node, term: leader.term },
    to,
    others: session.statuses().flatMap(({ node }) => (node === to ? [] : [node])),
    lacksBytes: end > has ? end - has : 0n,
  });
  for (const [index, { what }] of steps.entries()) say(`${index + 1}. ${what}`);
  say("Then it is done. Nothing was changed now.");
  answer({ steps });
}

export async function failover(dir: string, options: LeaderOptions): Promise<void> {
  await withSituation(dir, options.to, async (situation) => {
    const { session, leader, to } = situation;
    if (options.dryRun === true) return showPlan("failover", situation);
    say(`failing over ${leader === undefined ? "" : `from ${leader.node} `}to ${to}`);
    const outcome = await session.changeLeader(
      { reason: "an operator asked for a failover", candidate: to },
      changeTimeoutMs,
    );
    await session.record({
      kind: "planned",
      row: "failover",
      reason: "an operator asked for a failover",
      outcome: outcome.kind === "failed" ? outcome.reason : `${outcome.leader} leads term ${outcome.term}`,
      ok: outcome.kind === "established",
      durationMs: Math.round(performance.now() - situation.startedMs),
      node: to,
    });
    if (outcome.kind === "failed") throw orchestratorErrors.error("leader_change_failed", outcome.reason);
    await regroup(situation);
  });
}

export async function switchover(dir: string, options: LeaderOptions): Promise<void> {
  await withSituation(dir, options.to, async (situation) => {
    const { session, leader, to } = situation;
    if (leader === undefined) {
      throw orchestratorErrors.error(
        "no_leader",
        'no node leads at the moment, so there is nothing to hand over; use "quorate failover"',
      );
    }
    if (options.dryRun === true) return showPlan("switchover", situation);
    say(`handing leadership over from ${leader.node} to ${to}`);
    const problem = await handOver(session, leader, to);
    if (problem !== undefined) throw orchestratorErrors.error("leader_change_failed", problem);
    await regroup(situation);
  });
}

/** In good order; undefined when it worked, else why not (then the old leader goes on). */
export async function handOver(
  session: CohortSession,
  leader: NodeStatus,
  to: NodeId,
): Promise<string | undefined> {
  const startedMs = performance.now();
  const problem = await new PlannedChange(session, leader, to).run();
  await session.record({
    kind: "planned",
    row: "switchover",
    reason: `an operator hands leadership over from ${leader.node}`,
    outcome: problem ?? `${to} leads`,
    ok: problem === undefined,
    durationMs: Math.round(performance.now() - startedMs),
    node: to,
  });
  return problem;
}

/** The shell of the core's planned change. */
class PlannedChange {
  readonly #session: CohortSession;
  readonly #leader: NodeStatus;
  readonly #to: NodeId;
  #state: PlannedChangeState | undefined;
  #timer: NodeJS.Timeout | undefined;
  #finish: (problem: string | undefined) => void = () => undefined;
  /** Answers that the end has to wait for: the old leader must have heard that it may go on. */
  readonly #pending = new Set<Promise<void>>();

  constructor(session: CohortSession, leader: NodeStatus, to: NodeId) {
    this.#session = session;
    this.#leader = leader;
    this.#to = to;
  }

  async run(): Promise<string | undefined> {
    const finished = new Promise<string | undefined>((resolve) => {
      this.#finish = resolve;
    });
    const step = beginPlannedChange({
      leader: this.#leader.node,
      term: this.#leader.term,
      to: this.#to,
      reason: "an operator asked for a switchover",
      options: defaultPlannedChangeOptions,
    });
    this.#state = step.state;
    for (const effect of step.effects) this.#perform(effect);
    const problem = await finished;
    clearTimeout(this.#timer);
    await Promise.all(this.#pending);
    return problem;
  }

  #dispatch(event: PlannedChangeEvent): void {
    if (this.#state === undefined) return;
    const { state, effects } = stepPlannedChange(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#perform(effect);
  }

  #perform(effect: PlannedChangeEffect): void {
    switch (effect.kind) {
      case "quiesce": {
        const done = this.#quiesce(effect).finally(() => this.#pending.delete(done));
        this.#pending.add(done);
        return;
      }
      case "timer":
        this.#timer = setTimeout(() => this.#dispatch({ kind: "timer" }), effect.afterMs);
        void this.#reportProgress();
        return;
      case "changeLeader":
        void this.#session
          .changeLeader({ reason: effect.reason, candidate: effect.candidate }, 0)
          .then((outcome) => this.#dispatch({ kind: "changed", outcome }));
        return;
      case "finished":
        this.#finish(effect.ok ? undefined : effect.reason);
        return;
    }
  }

  async #quiesce({ node, term, on, timeoutMs }: PlannedChangeEffect & { kind: "quiesce" }): Promise<void> {
    const client = this.#session.client(node);
    const failed = (reason: string): void => {
      if (on) this.#dispatch({ kind: "quiesceFailed", reason });
    };
    if (client === undefined) return failed("no connection");
    try {
      const reply = await client.quiesce({ term, on, timeoutMs });
      if (!reply.ok) failed(reply.refusal.message);
      else if (on && reply.lsn === null) failed("it didn't say how far its log goes");
      else if (on && reply.lsn !== null) {
        say(`  ${node} holds new transactions; those in flight are done`);
        this.#dispatch({ kind: "quiesced", lsn: reply.lsn });
      }
    } catch (error) {
      failed(messageOf(error));
    }
  }

  /**
   * Feeds the intended leader's statuses to the core until it has caught up. They are asked for: the position in one
   * that comes by itself may be a quarter of a second old, and all writers wait.
   */
  async #reportProgress(): Promise<void> {
    while (this.#state?.kind === "catchingUp") {
      const status = await this.#session
        .client(this.#to)
        ?.getStatus({ deadlineMs: progressDeadlineMs })
        .catch(() => undefined);
      if (status !== undefined && status.flushedLsn !== null) {
        const { node, leader, term, flushedLsn } = status;
        this.#dispatch({ kind: "progress", node, leader, term, flushedLsn });
      }
      if (this.#state.kind === "catchingUp") await delay(progressIntervalMs);
    }
  }
}
