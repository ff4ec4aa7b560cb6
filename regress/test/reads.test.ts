/**
 * Reads that need proof: a leader that was paused or isolated answers nothing out of date, a follower knows how old
 * its contents are. Clocks of one machine, so what clocks at different rates do is left to the simulator.
 */
import { readdirSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { isAlive, poll, sendSignal, waitForExit } from "@quorate/common";
import type pg from "pg";
import { type Test, test } from "tap";
import { type Cluster, expectOk, makeCluster, type Server } from "../lib/cluster.ts";
import { freezeReceiver, threeNodes, untilWaiting } from "../lib/three-nodes.ts";

const leaseMs = 400;
const cannotRead = { code: "QR003" };
const leased = [`quorate.lease = ${leaseMs}ms`, "quorate.read_timeout = 1s"];

/** The server and all its processes stand still, as on a machine that is paused. Returns what lets them go on. */
function freeze(server: Server): () => void {
  const pids = [server.pid(), ...childrenOf(server.pid())];
  for (const pid of pids) sendSignal(pid, "SIGSTOP");
  return () => {
    for (const pid of pids) sendSignal(pid, "SIGCONT");
  };
}

function childrenOf(parent: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
          .replace(/^.*\) /, "")
          .split(" ");
        return Number(fields[1]) === parent;
      } catch {
        return false; // it has just ended
      }
    });
}

const count = async (client: pg.Client): Promise<string> =>
  (await client.query<{ n: string }>("select count(*)::text as n from t")).rows[0]?.n ?? "";

/** n2 leads term 3 with n3, as a coordinator would make it that has waited for the lease; one row more. */
async function replaceLeader(cluster: Cluster): Promise<void> {
  const fenced = performance.now();
  await cluster.lead("n2", 3, "2(n1,n2,n3)", ["n3"]);
  const elapsed = performance.now() - fenced;
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, leaseMs - elapsed))); // the wait itself
  await cluster.node("n2").sql("insert into t values (1)");
}

async function pausedLeader(t: Test, options: string): Promise<{ answer: Promise<string> }> {
  const cluster = await threeNodes(t, "2(n1,n2,n3)", leased);
  const n1 = cluster.node("n1");
  const client = await n1.connect(options);
  t.equal(await count(client), "0");
  const thaw = freeze(n1);
  const answer = count(client); // it is in the socket when the server goes on
  answer.catch(() => undefined);
  try {
    await replaceLeader(cluster);
  } finally {
    thaw();
  }
  return { answer };
}

test("a leader that was paused while it was replaced answers no read", async (t) => {
  const { answer } = await pausedLeader(t, "");
  await t.rejects(answer, cannotRead);
});

test("the same with a heartbeat for each read", async (t) => {
  const { answer } = await pausedLeader(t, "-cquorate.read_proof=heartbeat");
  await t.rejects(answer, cannotRead);
});

test("control: without proof it answers with what is out of date", async (t) => {
  const { answer } = await pausedLeader(t, "-cquorate.read_proof=none");
  t.equal(await answer, "0", "the row of term 3 is missing");
});

test("an isolated leader stops answering, a writer waits, and all goes on with the quorum", async (t) => {
  const cluster = await threeNodes(t, "2(n1,n2,n3)", leased);
  const n1 = cluster.node("n1");
  const reader = await n1.connect();
  const local = await n1.connect("-cquorate.read_proof=none");
  const writer = await n1.connect();
  const copier = await n1.connect();
  t.equal(await count(reader), "0");

  const thaw = ["n2", "n3"].map((id) => freezeReceiver(cluster.node(id)));
  await poll(
    () =>
      count(reader).then(
        () => undefined,
        () => true,
      ),
    { what: "the lease to end", timeoutMs: 20_000 },
  );
  await t.rejects(count(reader), cannotRead);
  await t.rejects(copier.query("copy t to stdout"), cannotRead, "COPY is a read");
  await t.rejects(reader.query("select lo_get(1)"), cannotRead, "so is a function");
  t.equal(await count(local), "0");
  const insert = writer.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  t.equal(await count(local), "0", "what waits is not visible");

  for (const go of thaw) go();
  await insert;
  t.equal(await count(reader), "1");
});

/** What a backend that is busy when its postmaster is killed answers to the next statement of the same request. */
async function orphanedBackend(t: Test, options: string): Promise<{ answer: Promise<string> }> {
  const cluster = await threeNodes(t, "2(n1,n2,n3)", ["quorate.lease = 60s"]);
  const n1 = cluster.node("n1");
  const client = await n1.connect(options);
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  const backend = rows[0]?.pid ?? 0;
  t.teardown(() => {
    if (isAlive(backend)) sendSignal(backend, "SIGKILL");
  });
  const busy = "do $$ begin while (pg_stat_file('go', true)).size is null loop end loop; end $$";
  const answer = client
    .query(`${busy}; select count(*)::text as n from t`)
    .then((results) => String((results as unknown as pg.QueryResult[])[1]?.rows[0]?.n));
  answer.catch(() => undefined);
  await n1.untilValue(
    `select (query like 'do %' and state = 'active')::text from pg_stat_activity where pid = ${backend}`,
    "true",
  );
  sendSignal(n1.pid(), "SIGKILL");
  await waitForExit(n1.pid(), { timeoutMs: 20_000 });
  t.ok(isAlive(backend), "the backend has not noticed");
  await writeFile(path.join(n1.data, "go"), "");
  return { answer };
}

test("a backend whose postmaster was killed answers no read, whatever the lease", async (t) => {
  const { answer } = await orphanedBackend(t, "");
  await t.rejects(answer, { code: "57P01" });
});

test("control: without proof it does", async (t) => {
  const { answer } = await orphanedBackend(t, "-cquorate.read_proof=none");
  t.equal(await answer, "0");
});

test("a cohort of one needs no proof from anybody", async (t) => {
  const cluster = await makeCluster({ nodes: 1, settings: leased });
  t.teardown(() => cluster.dispose());
  const n1 = cluster.node("n1");
  await n1.start();
  await cluster.lead("n1", 2, "1(n1)");
  await n1.sql("create table t (a int)");
  t.equal(await count(await n1.connect()), "0");
  t.equal(await count(await n1.connect("-cquorate.read_proof=heartbeat")), "0");
});

test("a follower knows how old its contents are, and refuses what is older than wanted", async (t) => {
  const cluster = await threeNodes(t, "2(n1,n2,n3)", leased);
  const n2 = cluster.node("n2");
  const bounded = await n2.connect("-cquorate.max_staleness=5s");
  const strict = await n2.connect("-cquorate.max_staleness=200ms -cquorate.staleness_timeout=300ms");
  t.equal(await count(bounded), "0");
  t.equal(await n2.value("select quorate.staleness() < interval '5 s'"), "t");

  const thaw = freeze(cluster.node("n1"));
  t.teardown(thaw);
  await n2.untilValue("select quorate.staleness() > interval '600 ms'", "t");
  await t.rejects(count(strict), cannotRead);
  t.equal(await n2.value("select count(*) from t"), "0", "without a limit it answers");
  thaw();
  await poll(() => count(strict).catch(() => undefined), { what: "fresh contents", timeoutMs: 20_000 });
});

test("the word of a leader that has lost its quorum makes nothing fresh", async (t) => {
  const cluster = await threeNodes(t, "3(n1,n2,n3)", leased);
  const n2 = cluster.node("n2");
  await n2.untilValue("select quorate.staleness() < interval '1 s'", "t");
  const thaw = freezeReceiver(cluster.node("n3"));
  t.teardown(thaw);
  await n2.untilValue("select quorate.staleness() > interval '1500 ms'", "t");
  const { receiver } = await n2.status();
  t.match(receiver, { state: "streaming" }, "though it hears from the leader");
  t.ok((receiver?.lastMessageAgeMs ?? Number.POSITIVE_INFINITY) < 1500);
});

test("an observer gets what is committed and nothing else", async (t) => {
  const cluster = await makeCluster({ nodes: 3 });
  t.teardown(() => cluster.dispose());
  const [n1, n2, n3] = [cluster.node("n1"), cluster.node("n2"), cluster.node("n3")];
  for (const server of cluster.servers) await server.start();
  await cluster.lead("n1", 2, "2(n1,n2)", ["n2"]);
  const conninfo = n1.conninfoFor("n3").replace("quorate.member", "quorate.observer");
  expectOk(await n3.ask({ cmd: "fence", term: 2 }));
  expectOk(await n3.ask({ cmd: "follow", term: 2, leader: "n1", conninfo }));
  await n1.sql("create extension quorate; create table t (a int)");
  await n3.untilValue("select count(*) from t", "0");
  t.equal(await n1.value("select member from quorate.followers where node = 'n3'"), "f");

  const thaw = freezeReceiver(n2);
  t.teardown(thaw);
  const insert = (await n1.connect()).query("insert into t select generate_series(1, 10000)");
  await untilWaiting(n1, 1);
  const { commitLsn, flushedLsn } = await n1.status();
  const beyond = async (lsn: string, server: Server) =>
    (await n1.sql(`select '${(await server.status()).receivedLsn}'::pg_lsn > '${lsn}'`))[0]?.[0];
  t.equal(await beyond(commitLsn ?? "0/0", n1), "t", "the leader has a tail");
  t.equal(
    await n1.value(
      `select sent_lsn <= '${commitLsn}' from pg_stat_replication where application_name = 'n3'`,
    ),
    "t",
  );
  t.equal(await beyond(commitLsn ?? "0/0", n3), "f", "the observer has none of it");
  thaw();
  await insert;
  await n3.untilValue("select count(*) from t", "10000");
  await n3.untilValue(`select pg_last_wal_replay_lsn() >= '${flushedLsn}'`, "t");
});
