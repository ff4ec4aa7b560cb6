/** Three sidecars over the real, patched Postgres, driven by hand as a coordinator would. */
import { readFile } from "node:fs/promises";
import { term } from "@quorate/consensus";
import t from "tap";
import { accepted, threeNodes } from "./real-cluster.ts";

t.test("a cluster is made, loses its leader, goes on, and the ex-leader comes back", async (t) => {
  const cluster = await threeNodes(t);
  await cluster.query("n1", "INSERT INTO t SELECT generate_series(1, 3)");
  const { pid } = await cluster.node("n1").client.getStatus();

  process.kill(pid ?? 0, "SIGKILL");
  await cluster.recruit(term(3), ["n2", "n3"]);
  await cluster.elect("n2", term(3), 3);
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
  await cluster.elect("n3", term(4), 4);
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
  await cluster.elect("n1", term(5), 5);
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
  await cluster.elect("n2", term(3), 3);
  for (const id of ["n1", "n3"]) await cluster.follow(id, "n2", term(3), true);
  await cluster.leads("n2", term(3));
  await cluster.query("n2", "INSERT INTO t VALUES (2)");
  for (const id of ["n1", "n3"]) await cluster.contentsBecome(id, "1,2");

  await cluster.recruit(term(4), ["n2", "n1", "n3"]);
  await cluster.elect("n2", term(4), 4);
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

t.test("a status that is asked for is of this moment", async (t) => {
  const cluster = await threeNodes(t);
  // what comes by itself comes every 250 ms: one of these at least would be old
  for (let i = 1; i <= 5; i++) {
    const [row] = await cluster.query(
      "n1",
      `INSERT INTO t VALUES (${i}) RETURNING (pg_current_wal_insert_lsn() - '0/0')::text AS written`,
    );
    const { flushedLsn } = await cluster.node("n1").client.getStatus();
    t.ok((flushedLsn ?? 0n) >= BigInt(String(row?.["written"])), `${flushedLsn}, ${row?.["written"]}`);
  }
  const pid = (await cluster.node("n1").client.getStatus()).pid ?? 0;
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
  const frozen = [pid, ...children.trim().split(" ").map(Number)];
  for (const each of frozen) process.kill(each, "SIGSTOP");
  try {
    const status = await cluster.node("n1").client.getStatus();
    t.match(status, { pid, state: "leader" }, "of a frozen Postgres one hears what it said last");
  } finally {
    for (const each of frozen) process.kill(each, "SIGCONT");
  }
});
