/**
 * Three raw servers, faults injected by hand: what is not durable is visible nowhere, whatever ends the wait for it,
 * and nobody acknowledges anything after it was fenced. (docs/control-socket.md; sidecars and coordinators have their
 * own tests.)
 */
import type { EventEmitter } from "node:events";
import { appendFile } from "node:fs/promises";
import { poll, sendSignal } from "@quorate/common";
import { test } from "tap";
import { type Cluster, expectOk, makeCluster, type Server } from "../lib/cluster.ts";
import { freezeReceiver, threeNodes, untilWaiting } from "../lib/three-nodes.ts";

async function countEverywhere(cluster: Cluster): Promise<(string | undefined)[]> {
  return Promise.all(cluster.servers.map((server) => server.value("select count(*) from t")));
}

test("without a quorum nothing becomes visible, whatever ends the wait; with it, it does", async (t) => {
  const cluster = await threeNodes(t);
  const n1 = cluster.node("n1");
  const thaw2 = freezeReceiver(cluster.node("n2"));
  const thaw3 = freezeReceiver(cluster.node("n3"));

  const cancelled = await n1.connect();
  const terminated = await n1.connect();
  const reset = await n1.connect();
  const optedOut = await n1.connect("-csynchronous_commit=off");
  const pidOf = async (client: typeof reset) =>
    (await client.query<{ pid: number }>("select pg_backend_pid() as pid")).rows[0]?.pid ?? 0;
  const pids = [await pidOf(cancelled), await pidOf(terminated)];
  const outcomes = Promise.allSettled(
    [cancelled, terminated, reset, optedOut].map((client, i) => client.query(`insert into t values (${i})`)),
  );
  await untilWaiting(n1, 4);
  t.same(await countEverywhere(cluster), ["0", "0", "0"], "while they wait");
  await n1.sql(`select pg_cancel_backend(${pids[0]}), pg_terminate_backend(${pids[1]})`);
  sendSignal(await pidOfBackend(n1, 2), "SIGTERM");
  (reset as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  t.same(await countEverywhere(cluster), ["0", "0", "0"], "after cancel, terminate and reset");
  t.match(await n1.status(), { waiting: 4 }, "all still wait");

  thaw2();
  await outcomes;
  await n1.untilValue("select count(*) from t", "4");
  await cluster.node("n2").untilValue("select count(*) from t", "4");
  t.equal(await cluster.node("n3").value("select count(*) from t"), "0", "the frozen one has not got it");
  thaw3();
  await cluster.node("n3").untilValue("select count(*) from t", "4");
});

/** Any backend that waits, other than the ones that have been dealt with. */
async function pidOfBackend(server: Server, at: number): Promise<number> {
  const rows = await server.sql(
    "select pid from pg_stat_activity where query like 'insert into t%' and state = 'active' order by query",
  );
  return Number(rows[at]?.[0]);
}

test("control: stock synchronous replication shows a commit whose wait was cancelled", async (t) => {
  const cluster = await makeCluster({ nodes: 1 });
  t.teardown(() => cluster.dispose());
  const n1 = cluster.node("n1");
  await appendFile(
    `${n1.data}/postgresql.conf`,
    "shared_preload_libraries = ''\nsynchronous_standby_names = 'ANY 1 (n2,n3)'\n",
  );
  await n1.launch({ standby: false });
  await poll(() => n1.value("select 1").catch(() => undefined), { what: "SQL", timeoutMs: 20_000 });
  const local = await n1.connect("-csynchronous_commit=local");
  await local.query("create table t (a int)");
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await poll(
    async () =>
      (await local.query("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"))
        .rowCount === 1,
    { what: "somebody to wait for a standby", timeoutMs: 20_000 },
  );
  await insert; // a mere warning
  t.equal(await n1.value("select count(*) from t"), "1", "visible, on no standby");

  // the extension may be there without being enabled
  await local.query("create extension quorate");
  t.equal(await n1.value("select enabled::text from quorate.status()"), "false");
  await t.rejects(n1.sql("select quorate.commit_lsn()"), /quorate is not enabled/);
});

test("a follower has it on disk and doesn't show it, nor does anybody else who reads the log", async (t) => {
  const cluster = await threeNodes(t, "3(n1,n2,n3)");
  const n1 = cluster.node("n1");
  const n2 = cluster.node("n2");
  freezeReceiver(cluster.node("n3"));
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)").catch(() => undefined);
  await untilWaiting(n1, 1);
  const end = (await n1.status()).flushedLsn ?? "";
  await n2.untilValue(`select (pg_last_wal_receive_lsn() >= '${end}')::text`, "true");
  t.equal(await n2.value("select count(*) from t"), "0", "not replayed");
  t.equal(await n2.value(`select (pg_last_wal_replay_lsn() < '${end}')::text`), "true");
  const { commitLsn } = await n1.status();
  t.equal(await n1.value(`select ('${commitLsn}'::pg_lsn < '${end}'::pg_lsn)::text`), "true");
  t.equal(await n1.value(`select quorate.is_committed('${end}')::text`), "false");
  void insert;
});

test("an observer is in no rule: it is told of commits, applies them and doesn't count; a stranger gets no more than what is committed", async (t) => {
  const cluster = await makeCluster({ nodes: 4 });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const stranger = cluster.node("n4");
  await cluster.lead("n1", 2, "2(n1,n3)", ["n2", "n3"]);
  const conninfo = `host=${n1.socketDirectory} port=5432 user=postgres application_name=n3`;
  expectOk(await stranger.ask({ cmd: "follow", term: 2, leader: "n1", conninfo }));
  await n1.sql("create table t (a int)");
  await n2.untilValue("select count(*) from t", "0");
  await n1.untilStatus("the stranger is there", ({ followers }) => followers.some(({ member }) => !member));

  const thaw = freezeReceiver(n3);
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  const { flushedLsn, commitLsn } = await n1.status();
  t.equal(await n1.value(`select ('${commitLsn}'::pg_lsn < '${flushedLsn}'::pg_lsn)::text`), "true");
  await n2.untilValue(`select (pg_last_wal_receive_lsn() >= '${flushedLsn}')::text`, "true");
  t.equal(await n2.value("select count(*) from t"), "0", "the observer has it and doesn't apply it");
  await stranger.untilValue(`select (pg_last_wal_receive_lsn() >= '${commitLsn}')::text`, "true");
  t.equal(await stranger.value(`select (pg_last_wal_receive_lsn() < '${flushedLsn}')::text`), "true");
  t.equal(await n1.value("select count(*) from t"), "0", "neither of them counts");
  t.match(await n1.status(), { waiting: 1 });
  thaw();
  await insert;
  await n2.untilValue("select count(*) from t", "1");
});

test("fast shutdown while a commit waits: it ends with the quorum, and what was waited for survives", async (t) => {
  const cluster = await threeNodes(t);
  const n1 = cluster.node("n1");
  const thaw = [freezeReceiver(cluster.node("n2")), freezeReceiver(cluster.node("n3"))];
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)").catch(() => undefined);
  await untilWaiting(n1, 1);
  const control = await n1.control();
  await control.request({ cmd: "watch" });
  sendSignal(n1.pid(), "SIGINT");
  await control.nextEvent(({ status }) => status.state === "stopping");
  t.equal(n1.isRunning(), true, "the shutdown waits for the quorum");
  for (const each of thaw) each();
  t.equal(await n1.exited(), 0, "and ends with it");
  await insert;
  for (const id of ["n2", "n3"]) await cluster.node(id).untilValue("select count(*) from t", "1");
});

test("a fenced follower acknowledges nothing, not even what it had received before it was frozen", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  freezeReceiver(n3);
  const thaw2 = freezeReceiver(n2);
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)").catch(() => undefined);
  await untilWaiting(n1, 1);
  const control = await n2.control();
  const fenced = control.request({ cmd: "fence", term: 3 });
  await n2.untilStatus("is fenced", ({ fenceTerm }) => fenceTerm === 3);
  const before = (await n1.status()).followers.find(({ node }) => node === "n2")?.flushedLsn;
  thaw2();
  const answer = expectOk(await fenced);
  t.match(answer, { status: { state: "fenced", receiver: { state: "stopped" } } });
  await n1.untilStatus("n2 is gone", ({ followers }) => !followers.some(({ node }) => node === "n2"));
  t.match(await n1.status(), { waiting: 1 }, `no acknowledgement beyond ${before}`);
  t.equal(await n1.value("select count(*) from t"), "0");
  void insert;
});

test("a restarted follower takes no part until it is told to", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2] = [cluster.node("n1"), cluster.node("n2")];
  const thaw = freezeReceiver(cluster.node("n3"));
  await n2.kill9();
  await n2.start();
  await n2.untilStatus("is consistent", ({ state }) => state === "fenced");
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  t.match(await n2.status(), { receiver: null, term: 0 });
  t.notOk((await n1.status()).followers.some(({ node }) => node === "n2"));
  await cluster.follow("n2", "n1", 2);
  await insert;
  thaw();
  t.equal(await n1.value("select count(*) from t"), "1");
});

test("the client hears of its commit's LSN, and reads its own write on a follower", async (t) => {
  const cluster = await threeNodes(t);
  const client = await cluster.node("n1").connect("-cquorate.report_commit_lsn=on");
  let reported = "";
  const { connection } = client as unknown as { connection: EventEmitter };
  connection.on("parameterStatus", ({ parameterName, parameterValue }: Record<string, string>) => {
    if (parameterName === "quorate.last_commit_lsn") reported = parameterValue ?? "";
  });
  for (let i = 1; i <= 20; i++) {
    await client.query("insert into t values (1)");
    const follower = cluster.node(i % 2 === 0 ? "n2" : "n3");
    await follower.sql(`select quorate.wait_for_lsn('${reported}', '10 s')`);
    t.equal(await follower.value("select count(*) from t"), String(i));
  }
});

test("an idle leader tells its followers of the last commit", async (t) => {
  const cluster = await threeNodes(t);
  const n1 = cluster.node("n1");
  await n1.sql("insert into t values (1)");
  const lsn = (await n1.status()).commitLsn;
  for (const id of ["n2", "n3"]) {
    await cluster.node(id).sql(`select quorate.wait_for_lsn('${lsn}', '5 s')`);
    t.equal(await cluster.node(id).value("select count(*) from t"), "1");
    t.equal(await cluster.node(id).value(`select quorate.is_committed('${lsn}')::text`), "true");
  }
});
