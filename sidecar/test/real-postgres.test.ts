/** Three sidecars over the real, patched Postgres, driven by hand as a coordinator would. */
import { poll } from "@quorate/common";
import { type CoordinatorId, coordinatorId, type NodeId, nodeId, type Term, term } from "@quorate/consensus";
import type { Accepted, NodeStatus, Reply } from "@quorate/proto";
import pg from "pg";
import t, { type Test } from "tap";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { SidecarUnderTest } from "./harness.ts";

const o1: CoordinatorId = coordinatorId("o1");
const majority = "2(n1,n2,n3)";
const text = JSON.stringify({ note: "opaque to the extension" });

function accepted<T>(reply: Reply<T>): Accepted<T> {
  if (!reply.ok) throw new Error(`${reply.refusal.code}: ${reply.refusal.message}`);
  return reply;
}

class Cluster {
  readonly nodes = new Map<NodeId, SidecarUnderTest>();

  static async make(test: Test): Promise<Cluster> {
    // Another build than the cached one, for those who work on it.
    const bin = process.env["QUORATE_TEST_BIN_DIR"] ?? (await ensurePostgres()).bin;
    const cluster = new Cluster();
    for (const name of ["n1", "n2", "n3"]) {
      const settings = { node: { id: name }, postgres: { binDir: bin } };
      const node = await SidecarUnderTest.make(test, settings, "real");
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

  async recruit(ofTerm: Term, ids: readonly string[]): Promise<void> {
    for (const id of ids)
      accepted(await this.node(id).client.recruit({ term: ofTerm, coordinator: o1, reason: "test" }));
  }

  async elect(id: string, ofTerm: Term, rule: string, version: number): Promise<void> {
    const request = { term: ofTerm, coordinator: o1, rule, joint: [], ruleset: { version, text } };
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
async function threeNodes(test: Test): Promise<Cluster> {
  const cluster = await Cluster.make(test);
  accepted(await cluster.node("n1").client.bootstrap({ cluster: "main" }));
  await cluster.recruit(term(2), ["n1"]);
  await cluster.elect("n1", term(2), "n1", 1);
  await cluster.leads("n1", term(2));
  for (const id of ["n2", "n3"]) await cluster.follow(id, "n1", term(2), false);
  for (const id of ["n2", "n3"]) await cluster.streams(id, "n1");
  const change = { term: term(2), rule: majority, ruleset: { version: 2, text }, timeoutMs: 20_000 };
  const changed = cluster.node("n1").client.changeRuleset(change);
  for (const id of ["n2", "n3"]) await cluster.follow(id, "n1", term(2), true);
  accepted(await changed);
  await cluster.query("n1", "CREATE TABLE t (n int PRIMARY KEY)");
  return cluster;
}

t.test("a cluster is made, loses its leader, goes on, and the ex-leader comes back", async (t) => {
  const cluster = await threeNodes(t);
  await cluster.query("n1", "INSERT INTO t SELECT generate_series(1, 3)");
  const { pid } = await cluster.node("n1").client.getStatus();

  process.kill(pid ?? 0, "SIGKILL");
  await cluster.recruit(term(3), ["n2", "n3"]);
  await cluster.elect("n2", term(3), majority, 3);
  await cluster.follow("n3", "n2", term(3), true);
  await cluster.leads("n2", term(3));
  await cluster.query("n2", "INSERT INTO t VALUES (4)");
  t.equal(await cluster.contents("n2"), "1,2,3,4");

  await cluster.follow("n1", "n2", term(3), true);
  await cluster.streams("n1", "n2");
  for (const id of ["n1", "n3"]) await cluster.contentsBecome(id, "1,2,3,4");

  t.comment("the leader's sidecar and Postgres die together");
  const before = await cluster.node("n2").client.getStatus();
  await cluster.node("n2").end("SIGKILL");
  process.kill(before.pid ?? 0, "SIGKILL");
  await cluster.recruit(term(4), ["n1", "n3"]);
  await cluster.elect("n3", term(4), majority, 4);
  await cluster.follow("n1", "n3", term(4), true);
  await cluster.leads("n3", term(4));
  await cluster.query("n3", "INSERT INTO t VALUES (5)");
  await cluster.node("n2").start();
  await cluster.follow("n2", "n3", term(4), true);
  for (const id of ["n1", "n2"]) await cluster.contentsBecome(id, "1,2,3,4,5");

  t.comment("all of it stops and starts");
  for (const id of ["n3", "n1", "n2"]) t.equal(await cluster.node(id).end("SIGTERM"), 0);
  for (const id of ["n1", "n2", "n3"]) await cluster.node(id).start();
  await cluster.recruit(term(5), ["n1", "n2", "n3"]);
  await cluster.elect("n1", term(5), majority, 5);
  for (const id of ["n2", "n3"]) await cluster.follow(id, "n1", term(5), true);
  await cluster.leads("n1", term(5));
  await cluster.query("n1", "INSERT INTO t VALUES (6)");
  for (const id of ["n2", "n3"]) await cluster.contentsBecome(id, "1,2,3,4,5,6");
});

t.test("a leader that is recruited hands over without dying, and can lead again", async (t) => {
  const cluster = await threeNodes(t);
  await cluster.query("n1", "INSERT INTO t VALUES (1)");
  accepted(await cluster.node("n1").client.quiesce({ term: term(2), on: true, timeoutMs: 5_000 }));
  await cluster.recruit(term(3), ["n1", "n2", "n3"]);
  await cluster.elect("n2", term(3), majority, 3);
  for (const id of ["n1", "n3"]) await cluster.follow(id, "n2", term(3), true);
  await cluster.leads("n2", term(3));
  await cluster.query("n2", "INSERT INTO t VALUES (2)");
  for (const id of ["n1", "n3"]) await cluster.contentsBecome(id, "1,2");

  await cluster.recruit(term(4), ["n2", "n1", "n3"]);
  await cluster.elect("n2", term(4), majority, 4);
  for (const id of ["n1", "n3"]) await cluster.follow(id, "n2", term(4), true);
  await cluster.leads("n2", term(4));
  await cluster.query("n2", "INSERT INTO t VALUES (3)");
  for (const id of ["n1", "n3"]) await cluster.contentsBecome(id, "1,2,3");
});

t.test("a killed sidecar of the leader doesn't interrupt anything", async (t) => {
  const cluster = await threeNodes(t);
  const before = await cluster.node("n1").client.getStatus();
  await cluster.node("n1").end("SIGKILL");
  await cluster.query("n1", "INSERT INTO t VALUES (1)");
  await cluster.node("n1").start();
  t.match(await cluster.node("n1").client.getStatus(), { state: "leader", term: 2, pid: before.pid });
  await cluster.query("n1", "INSERT INTO t VALUES (2)");
  for (const id of ["n2", "n3"]) await cluster.contentsBecome(id, "1,2");
});
