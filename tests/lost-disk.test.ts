// A node that lost its disk comes back under its old id, and has forgotten what it promised and acknowledged. It streams,
// but counts only once the ruleset names its new life. The control switches that off and loses an acknowledged commit.
import { coordinatorId, formatRuleset, judge, nodeId, noLsn, parseLsn, term } from "@quorate/consensus";
import { reportOf } from "@quorate/orchestrator/shell/coordinator-shell.ts";
import type { Recruited } from "@quorate/proto";
import t, { type Test } from "tap";
import { accepted, type RealCluster, threeNodes } from "../sidecar/test/real-cluster.ts";

const o2 = coordinatorId("o2");
const later = term(9);
const acknowledgedWithinMs = 3_000;

interface Siege {
  readonly cluster: RealCluster;
  /** What a slow coordinator heard of n3 before the disk was lost. */
  readonly heard: Recruited;
  /** Of a row that the leader wrote when it had nobody but n3's new life. */
  readonly write: Promise<boolean>;
}

/** Alone with a follower that has forgotten that it promised a later term. */
async function siege(test: Test, mutation?: string): Promise<Siege> {
  const cluster = await threeNodes(test, mutation);
  const [n2, n3] = [cluster.node("n2"), cluster.node("n3")];
  await cluster.query("n1", "INSERT INTO t VALUES (1)");
  await cluster.contentsBecome("n2", "1");
  const before = await n3.client.getStatus();
  const heard = accepted(await n3.client.recruit({ term: later, coordinator: o2, reason: "slow" }));
  test.equal(heard.incarnation, before.incarnation);

  await n3.crash();
  n3.loseDisk();
  await n3.start();
  test.match(await n3.client.getStatus(), { postgres: "absent", promisedTerm: 0, incarnation: null });
  await cluster.follow("n3", "n1", term(2), true);
  await cluster.streams("n3", "n1");
  const after = await n3.client.getStatus();
  test.ok(after.incarnation !== null && after.incarnation !== before.incarnation, "another life");
  await cluster.streamsAs("n3", "n1", mutation !== undefined);

  await n2.crash();
  await cluster.node("n1").until("n2 to be gone", (s) => s.followers.every(({ node }) => node !== "n2"));
  const write = cluster.query("n1", "INSERT INTO t VALUES (2)").then(
    () => true,
    () => false,
  );
  return { cluster, heard, write };
}

async function acknowledged(write: Promise<boolean>): Promise<boolean> {
  return await Promise.race([
    write,
    new Promise<false>((resolve) => setTimeout(() => resolve(false), acknowledgedWithinMs)),
  ]);
}

t.test("it counts when the ruleset names its new life, and not before", async (test) => {
  const { cluster, write } = await siege(test);
  test.equal(await acknowledged(write), false, "its acknowledgement counts for nothing");
  await cluster.node("n2").start();
  await cluster.streamsAs("n2", "n1", true);
  test.equal(await write, true, "with n2 it is durable");
  await cluster.contentsBecome("n3", "1,2");

  await cluster.changeRuleset("n1", term(2), await cluster.ruleset(3));
  await cluster.streamsAs("n3", "n1", true);
  await cluster.node("n2").crash();
  await cluster.query("n1", "INSERT INTO t VALUES (3)");
  test.equal(await cluster.contents("n1"), "1,2,3", "now it counts");

  await cluster.node("n3").end("SIGKILL");
  await cluster.node("n3").start();
  await cluster.query("n1", "INSERT INTO t VALUES (4)");
  await cluster.contentsBecome("n3", "1,2,3,4");
});

t.test("control: where it counts at once, an acknowledged commit is lost", async (test) => {
  const { cluster, heard, write } = await siege(test, "replacement-acknowledges");
  test.equal(await acknowledged(write), true, "acknowledged by n1 and n3's new life");
  const [row] = await cluster.query("n1", "SELECT pg_current_wal_lsn()::text AS lsn");
  const committed = parseLsn(String(row?.["lsn"])) ?? noLsn;
  await cluster.node("n1").crash();
  await cluster.node("n2").start();

  const n2 = cluster.node("n2");
  const second = accepted(await n2.client.recruit({ term: later, coordinator: o2, reason: "slow" }));
  const reports = new Map([
    [nodeId("n2"), reportOf(nodeId("n2"), second)],
    [nodeId("n3"), reportOf(nodeId("n3"), heard)],
  ]);
  const verdict = judge({ reports, newRuleset: undefined, wish: { only: nodeId("n2") } });
  if (!verdict.ok) throw new Error("n3's old life and n2 suffice");
  test.equal(verdict.candidate.node, "n2");
  const ruleset = verdict.rulesets.at(-1);
  if (ruleset === undefined) throw new Error("n2 knows the rules");
  const text = { version: ruleset.version, text: formatRuleset(ruleset) };
  const elect = { term: later, coordinator: o2, rule: "2(n1,n2,n3)", joint: [], ruleset: text };
  accepted(await n2.client.elect(elect));
  test.ok(
    second.position.lsn < committed,
    "term 9 begins below what was committed, and acknowledged, in term 2",
  );

  // It has applied that already, and finds out.
  const { postgres: port } = n2.ports;
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", port };
  accepted(await cluster.node("n3").client.follow({ term: later, coordinator: o2, member: true, ...peer }));
  await cluster
    .node("n3")
    .until("n3 to see the contradiction", ({ lastExit }) =>
      /does not contain what was replayed/.test(lastExit ?? ""),
    );
});
