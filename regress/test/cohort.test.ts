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

type Teardown = { readonly teardown: (fn: () => Promise<void>) => void };

const majority = "2(n1,n2,n3)";

/** n1 leads term 2, n2 and n3 follow it, the table t is there. */
async function threeNodes(t: Teardown, rule = majority, settings: readonly string[] = []): Promise<Cluster> {
  const cluster = await makeCluster({ nodes: 3, settings });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  await cluster.lead("n1", 2, rule, ["n2", "n3"]);
  await cluster.node("n1").sql("create extension quorate; create table t (a int)");
  for (const id of ["n2", "n3"]) await cluster.node(id).untilValue("select count(*) from t", "0");
  return cluster;
}

/** Its walreceiver stops as if the machine had frozen. Returns what thaws it. */
function freezeReceiver(server: Server): () => void {
  const pid = server.child(/walreceiver/);
  sendSignal(pid, "SIGSTOP");
  return () => {
    sendSignal(pid, "SIGCONT");
  };
}

const untilWaiting = (server: Server, count: number) =>
  server.untilStatus(`${count} wait for the quorum`, ({ waiting }) => waiting >= count);

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

test("failover: acknowledged rows stay, an ex-leader drops its tail and follows, terms are sparse", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  await n1.sql("insert into t select generate_series(1, 100)");
  await n1.sql("begin; insert into t values (101); prepare transaction 'p'");
  await n1.sql("create table u as select generate_series(1, 1000) as b");
  for (const each of [n2, n3]) freezeReceiver(each);

  const doomed = [
    "insert into t values (-1)",
    "create table doomed as select 1",
    "checkpoint",
    "create index on u (b)",
  ];
  for (const statement of doomed) {
    const client = await n1.connect();
    client.query(statement).catch(() => undefined);
  }
  await untilWaiting(n1, 3);
  await n1.kill9();
  for (const each of [n2, n3]) {
    await each.kill9();
    await each.start();
  }
  await cluster.lead("n2", 9, majority, ["n3"]);
  t.equal(await n2.value("select count(*) from t"), "100");
  await n2.sql("commit prepared 'p'");
  await n1.start();
  await cluster.follow("n1", "n2", 9);
  await n1.untilValue("select count(*) from t", "101");
  await n3.untilValue("select count(*) from t", "101");
  for (const each of [n1, n2, n3]) {
    t.equal(await each.value("select to_regclass('doomed')"), null, `${each.id}: the tail is gone`);
    t.equal(await each.value("select sum(a) from t"), String((101 * 102) / 2));
  }

  // and back again, with everything that n1 has
  const { position } = expectOk(await n1.ask({ cmd: "fence", term: 12 }));
  t.match(position, { term: 9 });
  await n2.stop("immediate");
  await cluster.lead("n1", 12, majority, ["n3"]);
  await n1.sql("insert into t values (102)");
  await n2.start();
  await cluster.follow("n2", "n1", 12);
  for (const each of [n1, n2, n3]) await each.untilValue("select sum(a) from t", String((102 * 103) / 2));
});

test("transactions of a dead leader don't seem to run on under the next one", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  // In recovery the list of running transactions isn't shown, but the oldest one is.
  const running = "select (pg_snapshot_xmin(s) < pg_snapshot_xmax(s))::text from pg_current_snapshot() s";
  const open = await n1.connect();
  await open.query("begin");
  await open.query("insert into t values (1)");
  await n1.sql("insert into t values (2)");
  await n3.untilValue("select count(*) from t", "1");
  t.equal(await n3.value(running), "true", "it runs, as far as n3 knows");
  await n1.kill9();
  await cluster.lead("n2", 3, majority, ["n3"]);
  await n3.untilStatus("applied the term's ruleset", ({ ruleset }) => ruleset?.version === 3);
  t.equal(await n3.value(running), "false");
  t.equal(await n2.value(running), "false");
});

test("a candidate that lacks the tail fetches it before it is elected", async (t) => {
  const cluster = await threeNodes(t, "1(n1,n2,n3)");
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const thaw2 = freezeReceiver(n2);
  await n1.sql("insert into t select generate_series(1, 10000)");
  await n3.untilValue("select count(*) from t", "10000");
  await n1.kill9();
  const fenced2 = n2.ask({ cmd: "fence", term: 3 });
  thaw2();
  const short = expectOk(await fenced2).position;
  const long = expectOk(await n3.ask({ cmd: "fence", term: 3 })).position;
  t.not(short?.lsn, long?.lsn);
  const fetched = expectOk(
    await n2.ask({ cmd: "fetch", term: 3, from: "n3", conninfo: n3.conninfoFor("n2"), target: long }),
  );
  t.same(fetched.position, long);
  t.match(await n2.ask({ cmd: "fetch", term: 3, from: "n3", conninfo: n3.conninfoFor("n2"), target: long }), {
    ok: true,
  });
  await cluster.lead("n2", 3, majority, ["n3"]);
  await n2.untilValue("select count(*) from t", "10000");
  await n2.sql("insert into t values (1)");
});

test("change of rules: under the old AND the new ones until it is durable; a successor finds it in the tail", async (t) => {
  const cluster = await threeNodes(t, "3(n1,n2,n3)");
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const thaw3 = freezeReceiver(n3);
  const control = await n1.control();
  const change = control.request({ cmd: "ruleset", term: 2, version: 3, rule: "2(n1,n2)", text: "drei" });
  await n1.untilStatus("both rules hold", ({ joint }) => joint.length === 1);
  t.match(await n1.status(), { rule: "2(n1,n2)", joint: ["3(n1,n2,n3)"], ruleset: { version: 2 } });
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  t.match(await control.request({ cmd: "ruleset", term: 2, version: 4, rule: "n1", text: "" }), {
    code: "wrong_state",
  });
  thaw3();
  expectOk(await change);
  await insert;
  t.match(await n1.status(), { rule: "2(n1,n2)", joint: [], ruleset: { version: 3, text: "drei" } });

  freezeReceiver(n3);
  await n1.sql("insert into t values (2)");
  const thaw2 = freezeReceiver(n2);
  const lost = control.request({ cmd: "ruleset", term: 2, version: 5, rule: "1(n1,n2,n3)", text: "fünf" });
  await n1.untilStatus("both rules hold", ({ joint }) => joint.length === 1);
  t.match(await n1.ask({ cmd: "fence", term: 4 }), {
    ok: true,
    ruleset: { version: 3 },
    tailRulesets: [{ version: 5, text: "fünf" }],
  });
  t.match(await lost, { ok: false, code: "superseded" });
  thaw2();
  await n1.stop("immediate");
  await n1.start();
  t.match(
    await n1.ask({ cmd: "fence", term: 4 }),
    { ok: true, tailRulesets: [{ version: 5, text: "fünf" }] },
    "after a restart the scan of the tail finds it",
  );
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

test("settings under which acknowledged data could be lost are refused", async (t) => {
  const refusals: [string, RegExp][] = [
    ["wal_level = minimal\nmax_wal_senders = 0", /cannot run with "wal_level" "minimal"/],
    ["full_page_writes = off", /cannot run with "full_page_writes" off/],
    ["restart_after_crash = on", /cannot run with "restart_after_crash" on/],
    ["hot_standby = off", /cannot run with "hot_standby" off/],
    ["max_wal_senders = 0", /cannot run with "max_wal_senders" 0/],
    ["quorate.node_id = ''", /"quorate.node_id" is not set/],
    ["quorate.node_id = 'N1'", /invalid value for parameter "quorate.node_id"/],
    [`quorate.control_socket = '/tmp/${"x".repeat(120)}'`, /is too long/],
    ["quorate.control_socket = ''\nunix_socket_directories = ''", /no place for the control socket/],
  ];
  for (const [setting, message] of refusals) {
    const cluster = await makeCluster({ nodes: 1, settings: [setting] });
    const server = cluster.node("n1");
    await server.launch();
    t.not(await server.exited(), 0, setting);
    t.match(await server.log(), message);
    await cluster.dispose();
  }
});

test("a damaged ruleset file keeps the server from starting", async (t) => {
  const cluster = await makeCluster({ nodes: 1 });
  t.teardown(() => cluster.dispose());
  const server = cluster.node("n1");
  await server.start();
  await cluster.lead("n1", 2, "n1");
  await server.stop();
  await appendFile(`${server.data}/quorate/ruleset`, "x");
  await server.launch();
  t.not(await server.exited(), 0);
  t.match(await server.log(), /file "quorate\/ruleset" is corrupt/);
});
