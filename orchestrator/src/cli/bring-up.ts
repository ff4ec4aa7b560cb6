// Performs the steps of cluster/bring-up-step.ts until the cluster is whole, and says what it does.
import { createLogger, messageOf } from "@quorate/common";
import {
  type CohortNode,
  cohortIds,
  type NodeId,
  nodeId,
  planRulesetChange,
  type Ruleset,
  withLife,
} from "@quorate/consensus";
import type { ClusterFile } from "@quorate/sidecar/config.ts";
import { addressProperties } from "../addresses.ts";
import { type BringUpStep, bringUpStep, leaderAmong } from "../cluster/bring-up-step.ts";
import type { OpenCluster } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { rulesetFor } from "../policy-text.ts";
import { CohortSession } from "../shell/cohort-session.ts";
import { grpcAddress } from "./sightings.ts";

const bringUpTimeoutMs = 300_000;
/** A cluster with a leader is usable: don't wait longer than this for a node that doesn't come. */
const stragglerTimeoutMs = 60_000;
const electTimeoutMs = 30_000;
const rulesetTimeoutMs = 30_000;
const followTimeoutMs = 60_000;

export interface BroughtUp {
  readonly leader: string;
}

function isVoter(node: ClusterFile["nodes"][number]): boolean {
  return node.observer !== true;
}

/** Observers aren't of the cohort. */
export function cohortNodes(file: ClusterFile): CohortNode[] {
  return file.nodes.filter(isVoter).map(({ id, zone, region, host, ports }) => ({
    id: nodeId(id),
    zone,
    region,
    properties: addressProperties(host, ports.postgres, ports.grpc),
  }));
}

/** Ruleset 1: the first node alone, whatever the policy, which may need more nodes than there are yet. */
function firstRuleset(nodes: readonly CohortNode[], first: NodeId): Ruleset {
  return rulesetFor(
    "majority",
    nodes.filter(({ id }) => id === first),
    1,
  );
}

export async function bringUp(cluster: OpenCluster, progress: (line: string) => void): Promise<BroughtUp> {
  const session = new CohortSession({
    addresses: cluster.file.nodes.map(grpcAddress),
    log: createLogger({ name: "cli", level: "silent" }),
  });
  try {
    return await new BringUp(cluster, session, progress).run();
  } finally {
    session.close();
  }
}

class BringUp {
  readonly #cluster: OpenCluster;
  readonly #session: CohortSession;
  readonly #progress: (line: string) => void;
  readonly #pointed = new Set<string>();
  readonly #startedMs = performance.now();
  #last = "";

  constructor(cluster: OpenCluster, session: CohortSession, progress: (line: string) => void) {
    this.#cluster = cluster;
    this.#session = session;
    this.#progress = progress;
  }

  #say(line: string): void {
    if (line === this.#last) return;
    this.#last = line;
    const elapsed = ((performance.now() - this.#startedMs) / 1000).toFixed(1);
    this.#progress(`[${elapsed.padStart(5)} s] ${line}`);
  }

  #step(): BringUpStep {
    const { rulesets } = this.#session.observation();
    return bringUpStep({
      ids: cohortNodes(this.#cluster.file).map(({ id }) => id),
      statuses: this.#session.statuses(),
      cohort: rulesets.length === 0 ? undefined : rulesets.flatMap(cohortIds),
    });
  }

  async run(): Promise<BroughtUp> {
    const deadlineMs = performance.now() + bringUpTimeoutMs;
    let stragglersSinceMs: number | undefined;
    for (;;) {
      const step = this.#step();
      if (step.kind === "done") {
        if (step.missing.length > 0)
          this.#say(`${step.missing.join(", ")}: stopped by an operator, left as it is`);
        return { leader: step.leader };
      }
      const leader = leaderAmong(this.#session.statuses());
      stragglersSinceMs = leader === undefined ? undefined : (stragglersSinceMs ?? performance.now());
      if (step.kind !== "wait") await this.#perform(step);
      else {
        this.#say(`waiting for ${step.what}`);
        await this.#session.nextEvent(1_000);
      }
      const nowMs = performance.now();
      const stuck = stragglersSinceMs !== undefined && nowMs - stragglersSinceMs > stragglerTimeoutMs;
      if (stuck && leader !== undefined && step.kind === "wait") {
        this.#say(`the cluster works without waiting any longer for ${step.what}; see "quorate status"`);
        return { leader: leader.node };
      }
      if (nowMs > deadlineMs) {
        const what = step.kind === "wait" ? step.what : step.kind;
        throw orchestratorErrors.error(
          "bootstrap_failed",
          `waited ${bringUpTimeoutMs / 1000} s in vain for ${what}: see "quorate logs" and run "quorate up" again`,
        );
      }
    }
  }

  async #perform(step: Exclude<BringUpStep, { kind: "wait" | "done" }>): Promise<void> {
    switch (step.kind) {
      case "bootstrap":
        return this.#bootstrap(step.node);
      case "elect":
        return this.#elect(step.node);
      case "follow":
        return this.#follow(step);
      case "changeRuleset":
        return this.#changeRuleset(step);
    }
  }

  /** With the lives that count, or are there. */
  #nodes(current: Ruleset | null): CohortNode[] {
    return cohortNodes(this.#cluster.file).map((node) =>
      withLife(node, current, this.#session.status(node.id)?.incarnation),
    );
  }

  async #bootstrap(node: NodeId): Promise<void> {
    this.#say(`${node}: making the first data directory`);
    const reply = await this.#session.client(node)?.bootstrap({ cluster: this.#cluster.file.cluster });
    if (reply?.ok !== true) throw failure(node, "bootstrap", reply?.refusal.message ?? "no connection");
    await this.#session.require(
      `Postgres of ${node} to run`,
      () => this.#session.status(node)?.postgres === "running" || undefined,
      bringUpTimeoutMs,
    );
  }

  async #elect(node: NodeId): Promise<void> {
    this.#say(`${node}: electing it as the first leader, alone in ruleset 1`);
    const outcome = await this.#session.changeLeader(
      {
        reason: "a new cluster",
        candidate: node,
        bootstrap: true,
        newRuleset: firstRuleset(this.#nodes(null), node),
      },
      electTimeoutMs,
    );
    if (outcome.kind === "failed") throw failure(node, "lead", outcome.reason);
    this.#say(`${node} leads term ${outcome.term}`);
  }

  async #follow({ nodes, leader }: BringUpStep & { kind: "follow" }): Promise<void> {
    const fresh = nodes.filter((node) => !this.#pointed.has(node));
    if (fresh.length > 0) this.#say(`${fresh.join(", ")}: copying ${leader.node}`);
    const { term, host, pgPort: port, node } = leader;
    const results = await Promise.all(
      nodes.map(async (id) => {
        this.#pointed.add(id);
        const request = { term, coordinator: this.#session.id, leader: node, host, port, member: true };
        const reply = await this.#session.client(id)?.follow(request, { deadlineMs: followTimeoutMs });
        return reply?.ok === true ? undefined : `${id}: ${reply?.refusal.message ?? "no connection"}`;
      }),
    ).catch((error: unknown) => [messageOf(error)]);
    const problems = results.filter((result) => result !== undefined);
    // An orchestrator may have been faster, or Postgres is just starting: look again at the next event.
    if (problems.length > 0) this.#say(`trying again: ${problems.join("; ")}`);
    await this.#session.nextEvent(500);
  }

  async #changeRuleset({ leader, version }: BringUpStep & { kind: "changeRuleset" }): Promise<void> {
    const { file } = this.#cluster;
    const current = this.#session.observation().rulesets.at(-1);
    if (current === undefined) return;
    const ruleset = rulesetFor(file.policy, this.#nodes(current), version);
    this.#say(`putting ${file.nodes.map(({ id }) => id).join(", ")} under policy ${file.policy}`);
    const members = leader.followers.filter((follower) => follower.member).map((follower) => follower.node);
    const plan = planRulesetChange({
      leader: leader.node,
      term: leader.term,
      current,
      pending: null,
      wanted: ruleset,
      streaming: new Set(members),
    });
    if (!plan.ok) throw failure(leader.node, "change the ruleset", plan.message);
    const reply = await this.#session.client(leader.node)?.changeRuleset({
      term: leader.term,
      rule: plan.rule,
      ruleset: plan.ruleset,
      timeoutMs: rulesetTimeoutMs,
    });
    if (reply?.ok !== true)
      throw failure(leader.node, "change the ruleset", reply?.refusal.message ?? "no connection");
    await this.#session.waitFor(
      () => (this.#session.status(leader.node)?.ruleset?.version ?? 0) >= version || undefined,
      rulesetTimeoutMs,
    );
  }
}

function failure(node: string, what: string, why: string): Error {
  return orchestratorErrors.error(
    "bootstrap_failed",
    `${node} could not ${what}: ${why}. See "quorate logs ${node}" and run "quorate up" again`,
  );
}
