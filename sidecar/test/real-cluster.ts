/** Three sidecars over the real, patched Postgres. */
import { poll } from "@quorate/common";
import {
  type CoordinatorId,
  compilePolicy,
  coordinatorId,
  findPolicy,
  formatRule,
  formatRuleset,
  type NodeId,
  nodeId,
  type Policy,
  type Ruleset,
  type Term,
  term,
} from "@quorate/consensus";
import type { Accepted, NodeStatus, Reply, RulesetText } from "@quorate/proto";
import pg from "pg";
import type { Test } from "tap";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { SidecarUnderTest } from "./harness.ts";

export const o1: CoordinatorId = coordinatorId("o1");
const all = ["n1", "n2", "n3"];

export function accepted<T>(reply: Reply<T>): Accepted<T> {
  if (!reply.ok) throw new Error(`${reply.refusal.code}: ${reply.refusal.message}`);
  return reply;
}

function textOf(ruleset: Ruleset): RulesetText {
  return { version: ruleset.version, text: formatRuleset(ruleset) };
}

function ruleOf(ruleset: Ruleset, leader: string): string {
  const rule = ruleset.leaders.get(nodeId(leader));
  if (rule === undefined) throw new Error(`${leader} may not lead`);
  return formatRule(rule);
}

/** Three sidecars over the real, patched Postgres, driven by hand as a coordinator would. */
export class RealCluster {
  readonly nodes = new Map<NodeId, SidecarUnderTest>();
  readonly #lives = new Map<string, string>();

  /** `mutation`: a seeded bug of the simulator's list. */
  static async make(test: Test, mutation?: string): Promise<RealCluster> {
    // Another build than the cached one, for those who work on it.
    const bin = process.env["QUORATE_TEST_BIN_DIR"] ?? (await ensurePostgres()).bin;
    const cluster = new RealCluster();
    for (const name of ["n1", "n2", "n3"]) {
      const settings = { node: { id: name }, postgres: { binDir: bin } };
      const node = await SidecarUnderTest.make(test, settings, "real");
      if (mutation !== undefined) node.seedBug(mutation);
      await node.start();
      cluster.nodes.set(nodeId(name), node);
    }
    return cluster;
  }

  node(id: string): SidecarUnderTest {
    const node = this.nodes.get(nodeId(id));
    if (node === undefined) throw new Error(`no node ${id}`);
    return node;
  }

  /** A majority of these nodes, as the lives that they are now, or were when they were seen last. */
  async ruleset(version: number, cohort: readonly string[] = all): Promise<Ruleset> {
    for (const id of cohort) {
      const status = await this.node(id)
        .client.getStatus()
        .catch(() => null);
      if (status?.incarnation) this.#lives.set(id, status.incarnation);
    }
    const nodes = cohort.map((id) => {
      const incarnation = this.#lives.get(id);
      return { id: nodeId(id), zone: id, region: "", ...(incarnation === undefined ? {} : { incarnation }) };
    });
    const compiled = compilePolicy({ policy: findPolicy("majority") as Policy, nodes, version });
    if (!compiled.ok) throw new Error("majority fits any nodes");
    return compiled.ruleset;
  }

  async changeRuleset(leader: string, ofTerm: Term, ruleset: Ruleset): Promise<void> {
    const rule = ruleOf(ruleset, leader);
    const change = { term: ofTerm, rule, ruleset: textOf(ruleset), timeoutMs: 20_000 };
    accepted(await this.node(leader).client.changeRuleset(change));
  }

  async recruit(ofTerm: Term, ids: readonly string[]): Promise<void> {
    for (const id of ids)
      accepted(await this.node(id).client.recruit({ term: ofTerm, coordinator: o1, reason: "test" }));
  }

  async elect(id: string, ofTerm: Term, version: number, cohort: readonly string[] = all): Promise<void> {
    const ruleset = await this.ruleset(version, cohort);
    const rule = ruleOf(ruleset, id);
    const text = textOf(ruleset);
    const request = { term: ofTerm, coordinator: o1, rule, joint: [], ruleset: text };
    accepted(await this.node(id).client.elect(request));
  }

  async follow(id: string, leader: string, ofTerm: Term, member: boolean): Promise<void> {
    const { postgres: port } = this.node(leader).ports;
    const peer = { leader: nodeId(leader), host: "127.0.0.1", port };
    accepted(await this.node(id).client.follow({ term: ofTerm, coordinator: o1, member, ...peer }));
  }

  async leads(id: string, ofTerm: Term): Promise<NodeStatus> {
    return await this.node(id).until(`${id} to lead`, (s) => s.state === "leader" && s.term === ofTerm);
  }

  async streams(id: string, leader: string): Promise<NodeStatus> {
    const isStreaming = (s: NodeStatus): boolean => s.leader === leader && s.receiver?.state === "streaming";
    return await this.node(id).until(`${id} to stream from ${leader}`, isStreaming);
  }

  /** As the leader sees it. */
  async streamsAs(id: string, leader: string, member: boolean): Promise<NodeStatus> {
    return await this.node(leader).until(`${id} to stream from ${leader} (member: ${member})`, (s) =>
      s.followers.some((each) => each.node === id && each.member === member),
    );
  }

  async query(id: string, sql: string): Promise<Record<string, unknown>[]> {
    const { postgres: port } = this.node(id).ports;
    const client = new pg.Client({
      host: "127.0.0.1",
      port,
      user: "app",
      password: "secret",
      database: "app",
    });
    // A server that dies while we are connected is part of these tests.
    client.on("error", () => undefined);
    await client.connect();
    try {
      return (await client.query(sql)).rows as Record<string, unknown>[];
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  async contents(id: string): Promise<string> {
    const rows = await this.query(id, "SELECT string_agg(n::text, ',' ORDER BY n) AS all FROM t");
    return String(rows[0]?.["all"]);
  }

  async contentsBecome(id: string, wanted: string): Promise<void> {
    await poll(async () => (await this.contents(id).catch(() => null)) === wanted, {
      what: `${id} to hold ${wanted}`,
      timeoutMs: 60_000,
    });
  }
}

/** n1 leads term 2 with n2 and n3 as members. */
export async function threeNodes(test: Test, mutation?: string): Promise<RealCluster> {
  const cluster = await RealCluster.make(test, mutation);
  accepted(await cluster.node("n1").client.bootstrap({ cluster: "main" }));
  await cluster.recruit(term(2), ["n1"]);
  await cluster.elect("n1", term(2), 1, ["n1"]);
  await cluster.leads("n1", term(2));
  for (const id of ["n2", "n3"]) await cluster.follow(id, "n1", term(2), true);
  for (const id of ["n2", "n3"]) await cluster.streamsAs(id, "n1", true);
  await cluster.changeRuleset("n1", term(2), await cluster.ruleset(2));
  await cluster.query("n1", "CREATE TABLE t (n int PRIMARY KEY)");
  return cluster;
}
