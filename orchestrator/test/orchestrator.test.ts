import { createLogger, poll } from "@quorate/common";
import { coordinatorId, defaultDetectorOptions, formatRuleset } from "@quorate/consensus";
import t, { type Test } from "tap";
import { addressProperties } from "../src/addresses.ts";
import { Orchestrator } from "../src/orchestrator.ts";
import { rulesetFor } from "../src/policy-text.ts";
import { CohortSession } from "../src/shell/cohort-session.ts";
import { FakeCluster } from "./fake-sidecar.ts";

const log = createLogger({ name: "test", level: process.env["TEST_LOG"] === undefined ? "silent" : "info" });
const zones = { n1: "a", n2: "b", n3: "c" };
const detector = {
  ...defaultDetectorOptions,
  silentMs: 400,
  noLeaderHoldMs: 300,
  attemptMs: 400,
  staggerMs: 60,
};

function until(what: string, probe: () => unknown, timeoutMs = 5_000): Promise<unknown> {
  return poll(() => (probe() ? true : undefined), { what, timeoutMs, intervalMs: 5 });
}

/** Three nodes with data, n1 leads term 2, everybody under "majority". */
async function threeNodes(test: Test): Promise<FakeCluster> {
  const cluster = await FakeCluster.start(zones);
  test.teardown(() => cluster.stop());
  const session = new CohortSession({ addresses: cluster.addresses, log });
  try {
    await session.require("statuses", () => session.statuses().length === 3 || undefined, 3_000);
    const members = [...cluster.nodes.values()].map((node) => ({
      id: node.id,
      zone: node.zone,
      region: "local",
      properties: addressProperties("127.0.0.1", 10_000 + node.grpcPort, node.grpcPort),
    }));
    await session.client(cluster.node("n1").id)?.bootstrap({ cluster: "main" });
    const outcome = await session.changeLeader(
      {
        reason: "a new cluster",
        bootstrap: true,
        newRuleset: rulesetFor("majority", members.slice(0, 1), 1),
      },
      3_000,
    );
    test.equal(outcome.kind, "established", JSON.stringify(outcome));
    const { term } = outcome;
    const n1 = cluster.node("n1");
    for (const id of ["n2", "n3"]) {
      const request = {
        term,
        coordinator: session.id,
        leader: n1.id,
        host: "127.0.0.1",
        port: 1,
        member: true,
      };
      await session.client(cluster.node(id).id)?.follow(request);
    }
    const ruleset = rulesetFor("majority", members, 2);
    const reply = await session.client(n1.id)?.changeRuleset({
      term,
      rule: "2(n1,n2,n3)",
      ruleset: { version: 2, text: formatRuleset(ruleset) },
      timeoutMs: 1_000,
    });
    test.equal(reply?.ok, true);
    cluster.replicate();
  } finally {
    session.close();
  }
  return cluster;
}

function orchestrate(
  test: Test,
  cluster: FakeCluster,
  id: string,
  zone: string,
  known?: string[],
): Orchestrator {
  const orchestrator = new Orchestrator({
    id: coordinatorId(`${id}-test`),
    zone,
    addresses: known ?? cluster.addresses,
    log,
    detector,
  });
  test.teardown(() => orchestrator.stop());
  orchestrator.start();
  return orchestrator;
}

const wellRow = (orchestrator: Orchestrator): boolean =>
  orchestrator.decisions.length === 3 && orchestrator.decisions.every(({ kind }) => kind === "nothing");

t.test("a well cluster is left alone, and found whole from the address of one node", async (test) => {
  const cluster = await threeNodes(test);
  const one = cluster.addresses.slice(1, 2);
  const orchestrator = orchestrate(test, cluster, "o1", "a", one);
  await until("all nodes to be seen", () => wellRow(orchestrator));
  test.equal(cluster.leader()?.id, "n1");
  test.notOk(cluster.node("n2").calls.some((call) => call.startsWith("recruit 3")));
});

t.test("the leader's Postgres dies: a new leader, and the old one follows when it is back", async (test) => {
  const cluster = await threeNodes(test);
  const orchestrator = orchestrate(test, cluster, "o1", "b");
  await until("all nodes to be seen", () => wellRow(orchestrator));
  test.ok(cluster.write(5));
  const before = cluster.node("n1").log.length;
  cluster.crash("n1");
  await until("a new leader", () => cluster.leader() !== undefined);
  test.not(cluster.leader()?.id, "n1");
  test.ok(cluster.write(3), "the new leader admits writes with two of three");
  cluster.restart("n1");
  await until("n1 to follow", () => cluster.node("n1").state === "follower");
  await until("n1 to have the log", () => cluster.node("n1").log.length === cluster.leader()?.log.length);
  test.ok(cluster.node("n1").log.length > before);
  test.equal(cluster.node("n1").clones, 0);
});

t.test("three orchestrators race: one leader, and everybody follows it", async (test) => {
  const cluster = await threeNodes(test);
  const three = [
    orchestrate(test, cluster, "o1", "a"),
    orchestrate(test, cluster, "o2", "b"),
    orchestrate(test, cluster, "o3", "c"),
  ];
  await until("all to see all", () => three.every(wellRow));
  for (let round = 0; round < 3; round++) {
    const old = cluster.leader();
    test.ok(old);
    if (old === undefined) return;
    test.ok(cluster.write());
    cluster.crash(old.id);
    await until("a new leader", () => cluster.leader() !== undefined);
    cluster.restart(old.id);
    await until("a whole cluster", () => three.every(wellRow) && cluster.write());
  }
  const leaders = [...cluster.nodes.values()].filter((node) => node.state === "leader");
  test.equal(leaders.length, 1);
});

t.test("the leader's sidecar and Postgres die together", async (test) => {
  const cluster = await threeNodes(test);
  const orchestrator = orchestrate(test, cluster, "o2", "b");
  await until("all nodes to be seen", () => wellRow(orchestrator));
  const n1 = cluster.node("n1");
  n1.postgres = "crashed";
  n1.wasLeader = true;
  n1.state = "fenced";
  for (const id of ["n2", "n3"]) cluster.breakStream(id);
  await cluster.stopSidecar("n1");
  await until("a new leader", () => cluster.leader() !== undefined);
  await cluster.serve(n1);
  cluster.restart("n1");
  await until("n1 to follow", () => n1.state === "follower");
});

t.test("the leader's sidecar dies alone: its followers still hear it, nothing is changed", async (test) => {
  const cluster = await threeNodes(test);
  const orchestrator = orchestrate(test, cluster, "o2", "b");
  await until("all nodes to be seen", () => wellRow(orchestrator));
  const recruits = cluster.node("n2").calls.length;
  await cluster.stopSidecar("n1");
  await until(
    "the loss to be seen",
    () => orchestrator.observation?.nodes.get(cluster.node("n1").id)?.link === "reset",
  );
  cluster.node("n2").push();
  cluster.node("n3").push();
  await cluster.serve(cluster.node("n1"));
  await until("all nodes to be seen again", () => wellRow(orchestrator));
  test.equal(cluster.node("n2").calls.length, recruits);
  test.equal(cluster.leader()?.id, "n1");
});

t.test(
  "without a majority nothing is promised and nothing lost; with it again a leader comes",
  async (test) => {
    const cluster = await threeNodes(test);
    const orchestrator = orchestrate(test, cluster, "o2", "b");
    await until("all nodes to be seen", () => wellRow(orchestrator));
    cluster.crash("n3");
    cluster.crash("n1");
    await until("the verdict", () => orchestrator.decisions[0]?.row === "change_impossible");
    test.equal(cluster.leader(), undefined);
    cluster.restart("n1");
    await until("a leader", () => cluster.leader() !== undefined);
    cluster.restart("n3");
    await until("a whole cluster", () => wellRow(orchestrator));
  },
);
