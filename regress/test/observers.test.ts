/** Whoever reads the log without being in the quorum gets only what is committed, and can rely on it. */
import { readdirSync } from "node:fs";
import path from "node:path";
import { poll, runAsPostgres } from "@quorate/common";
import { parseLsn } from "@quorate/consensus";
import { type Test, test } from "tap";
import { amcheck, contentsOf, withClient } from "../../tests/lib/contents.ts";
import { begun, kinds, patienceMs, trio } from "../lib/anomaly.ts";
import { type Cluster, expectOk, makeCluster, type Server } from "../lib/cluster.ts";
import { freezeReceiver, majority, threeNodes, untilWaiting } from "../lib/three-nodes.ts";

const connection = (server: Server) => ["-h", server.socketDirectory, "-p", "5432", "-U", "postgres"];

const target = (server: Server) => ({
  host: server.socketDirectory,
  port: 5432,
  user: "postgres",
  database: "postgres",
});

for (const kind of kinds) {
  test(`pg_recvlogical: ${kind}`, async (t) => {
    const { n1, n2, n3, cluster } = await trio(t, kind, { settings: ["wal_level = logical"] });
    await n1.sql("select pg_create_logical_replication_slot('cdc', 'test_decoding')");
    const received: string[] = [];
    const ended = new AbortController();
    const program = runAsPostgres(
      path.join(cluster.bin, "pg_recvlogical"),
      [...connection(n1), "-d", "postgres", "--slot", "cdc", "--start", "-f", "-", "-F", "0"],
      { signal: ended.signal, timeoutMs: 60_000, onOutput: (text) => received.push(text) },
    ).catch(() => undefined);
    t.teardown(async () => {
      ended.abort();
      await program;
    });
    const holds = (what: string) => poll(() => received.join("").includes(what), { what, timeoutMs: 10_000 });
    await n1.sql("insert into t values (4711)");
    await holds("4711");
    for (const each of [n2, n3]) freezeReceiver(each);
    await begun(n1, "insert into t values (4712)");
    const got = await poll(() => received.join("").includes("4712"), {
      what: "4712",
      timeoutMs: patienceMs(kind, 700),
    }).catch(() => false);
    t.equal(got, kind === "stock", "a change that isn't committed");
  });
}

test("a physical observer has no byte that isn't committed, is told what is, and applies it", async (t) => {
  const cluster = await makeCluster({ nodes: 3 });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  await cluster.lead("n1", 2, "2(n1,n2)", ["n2"]);
  const conninfo = n1.conninfoFor("n3").replace("quorate.member", "quorate.observer");
  expectOk(await n3.ask({ cmd: "follow", term: 2, leader: "n1", conninfo }));
  await n1.sql("create table t (a int)");
  await n3.untilValue("select count(*) from t", "0");
  const thaw = freezeReceiver(n2);
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  const { commitLsn } = await n1.status();
  await n3.untilValue(`select (pg_last_wal_receive_lsn() = '${commitLsn}')::text`, "true");
  t.equal(await n3.value("select count(*) from t"), "0");
  t.match(await n1.status(), { waiting: 1 }, "it doesn't count");
  thaw();
  await insert;
  await n3.untilValue("select count(*) from t", "1");
});

const lsnOf = (text: string | null | undefined): bigint => parseLsn(text ?? "") ?? 0n;

test("WAL summaries end where what is committed ends", async (t) => {
  const cluster = await threeNodes(t, "3(n1,n2,n3)", ["summarize_wal = on"]);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  freezeReceiver(n2); // n3 has the tail, too
  const client = await n1.connect();
  client.query("insert into t select generate_series(1, 1000)").catch(() => undefined);
  await untilWaiting(n1, 1);
  const checkpoint = await n1.connect();
  checkpoint.query("checkpoint").catch(() => undefined); // would make stock's summarizer write one
  const { commitLsn } = await n1.status();
  await n3.untilStatus("has the tail", ({ flushedLsn }) => lsnOf(flushedLsn) > lsnOf(commitLsn));
  const deadlineMs = performance.now() + 2000;
  while (performance.now() < deadlineMs) {
    for (const each of [n1, n3]) {
      const state = await each.sql("select pending_lsn, summarized_lsn from pg_get_wal_summarizer_state()");
      for (const lsn of state[0] ?? [])
        t.ok(lsnOf(lsn) <= lsnOf(commitLsn), `${each.id}: ${lsn} <= ${commitLsn}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
});

/** How often a summary begins later than the one before it ended. */
async function gapsInSummaries(server: Server): Promise<number> {
  const { rows } = await withClient(target(server), (client) =>
    client.query<{ gaps: number }>(`select count(*)::int as gaps from (select start_lsn,
      lag(end_lsn) over (order by end_lsn) as before from pg_available_wal_summaries()) as s where start_lsn > before`),
  );
  return rows[0]?.gaps ?? Number.NaN;
}

test("summaries go on where the newest ends, whatever a power cut brings back in pg_wal", async (t) => {
  const cluster = await threeNodes(t, majority, [
    "summarize_wal = on",
    "min_wal_size = 32MB",
    "wal_keep_size = 0",
  ]);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const wal = path.join(n3.data, "pg_wal");
  const isOf = (timeline: string) => (name: string) =>
    /^[0-9A-F]{24}$/.test(name) && name.startsWith(timeline);
  const segments = (timeline: string) => readdirSync(wal).filter(isOf(timeline)).sort();
  const moveOn = async (leader: Server): Promise<string> => {
    const name = (await leader.value("select pg_walfile_name(pg_current_wal_lsn())")) ?? "";
    for (let i = 0; i < 4; i++) {
      await leader.sql("insert into t values (1)");
      await leader.sql("select pg_switch_wal()");
    }
    await leader.sql("insert into t values (1)");
    return name.slice(0, 8);
  };
  const summarizedTo = async (lsn: string | undefined) =>
    n3.untilValue(`select (summarized_lsn >= '${lsn}')::text from pg_get_wal_summarizer_state()`, "true");
  const checkpointOn = async (leader: Server): Promise<void> => {
    await leader.sql("checkpoint");
    await summarizedTo(await leader.value("select redo_lsn from pg_control_checkpoint()"));
    await n3.sql("checkpoint");
  };
  const timeline = await moveOn(n1);
  const kept = path.join(cluster.dir, "kept");
  const [first] = segments(timeline);
  t.ok(first);
  await runAsPostgres("cp", [path.join(wal, first ?? ""), kept]);
  await checkpointOn(n1);
  await n1.kill9();
  await cluster.lead("n2", 9, majority, ["n3"]);
  await moveOn(n2);
  await poll(
    async () => {
      await n2.sql("insert into t values (1)");
      await checkpointOn(n2);
      return segments(timeline).length === 0;
    },
    { what: "the old timeline's files to go", timeoutMs: 30_000 },
  );
  await n3.stop("immediate");
  await runAsPostgres("cp", [kept, path.join(wal, first ?? "")]);
  await n3.start();
  await cluster.follow("n3", "n2", 9);
  await n2.sql("insert into t values (1)");
  await checkpointOn(n2);
  t.equal(await gapsInSummaries(n3), 0);
});

test("a term that begins at the boundary of a segment leaves no gap in the summaries", async (t) => {
  const cluster = await threeNodes(t, majority, ["summarize_wal = on"]);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  await n1.sql("select pg_switch_wal()");
  const { flushedLsn } = await n1.status();
  for (const each of [n2, n3])
    await each.untilStatus("has all", ({ flushedLsn: here }) => lsnOf(here) >= lsnOf(flushedLsn));
  await n1.kill9();
  await cluster.lead("n2", 9, majority, ["n3"]);
  const begin = await n2.value("select pg_read_file('pg_wal/00000009.history')");
  t.match(begin, /\t[0-9A-F]+\/[0-9A-F]+000000\t[^\t]*\n$/, "the term begins at a boundary");
  await n2.sql("insert into t values (1)");
  await n2.sql("checkpoint");
  const redo = await n2.value("select redo_lsn from pg_control_checkpoint()");
  await n2.untilValue(
    `select (summarized_lsn >= '${redo}')::text from pg_get_wal_summarizer_state()`,
    "true",
  );
  t.equal(await gapsInSummaries(n2), 0);
});

/** Replaces a stopped server's data directory, keeping its configuration. */
async function replaceData(t: Test, cluster: Cluster, server: Server, from: string): Promise<void> {
  await runAsPostgres("cp", [path.join(server.data, "postgresql.conf"), path.join(from, "postgresql.conf")]);
  await runAsPostgres("rm", ["-rf", server.data]);
  await runAsPostgres("mv", [from, server.data]);
  t.comment(`${server.id} of ${cluster.dir} is the combined backup now`);
}

test("an incremental backup of one leader on a full one of its predecessor makes a node", async (t) => {
  const cluster = await threeNodes(t, majority, ["summarize_wal = on"]);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const backup = (server: Server, name: string, ...more: string[]) =>
    runAsPostgres(
      path.join(cluster.bin, "pg_basebackup"),
      [...connection(server), "-D", path.join(cluster.dir, name), "-c", "fast", "--no-sync", ...more],
      { timeoutMs: 120_000 },
    );
  await n1.sql(`create extension amcheck; create table big as select g as a, repeat('x', 100) as b
    from generate_series(1, 20000) g; create index on big (a)`);
  await backup(n1, "full");
  await n1.sql("update big set b = 'first leader' where a % 100 = 0");
  await n2.untilValue("select count(*) from big where b = 'first leader'", "200");
  // a tail that nobody else has goes into no backup
  for (const each of [n2, n3]) freezeReceiver(each);
  const client = await n1.connect();
  client.query("update big set b = 'doomed' where a % 2 = 0").catch(() => undefined);
  await n1.untilStatus("has a tail", ({ flushedLsn, commitLsn }) => lsnOf(flushedLsn) > lsnOf(commitLsn));
  await n1.kill9();
  for (const each of [n2, n3]) {
    await each.kill9();
    await each.start();
  }
  await cluster.lead("n2", 9, majority, ["n3"]);
  await n1.start();
  await cluster.follow("n1", "n2", 9);
  await n2.sql("update big set b = 'second leader' where a % 100 = 1");
  const manifest = path.join(cluster.dir, "full", "backup_manifest");
  await backup(n2, "incremental", `--incremental=${manifest}`);
  await runAsPostgres(path.join(cluster.bin, "pg_combinebackup"), [
    ...["full", "incremental"].map((name) => path.join(cluster.dir, name)),
    ...["-o", path.join(cluster.dir, "combined"), "--no-sync"],
  ]);
  await runAsPostgres(path.join(cluster.bin, "pg_verifybackup"), [path.join(cluster.dir, "combined")]);
  await n2.sql("update big set b = 'after' where a % 100 = 2");
  await n3.stop("immediate");
  await replaceData(t, cluster, n3, path.join(cluster.dir, "combined"));
  await n3.start();
  await cluster.follow("n3", "n2", 9);
  await n3.untilValue("select count(*) from big where b = 'after'", "200");
  t.same(await contentsOf(target(n3)), await contentsOf(target(n2)));
  t.same(await amcheck(target(n3)), []);
  t.equal(await n3.value("select count(*) from big where b = 'second leader'"), "200");
});

const slotSettings = [
  "wal_level = logical",
  "hot_standby_feedback = on",
  "sync_replication_slots = on",
  "primary_slot_name = 'slotsync'",
];

/** What a sidecar does for failover slots: where to copy them from, and the slot that the copier asks for by name. */
async function copySlotsFrom(leader: Server, followers: readonly Server[]): Promise<void> {
  await leader.sql("select pg_create_physical_replication_slot('slotsync')"); // reserves no WAL
  for (const follower of followers) {
    const { socketDirectory } = leader;
    await follower.configure(
      `primary_conninfo = 'host=${socketDirectory} port=5432 user=postgres dbname=postgres'`,
    );
    await follower.sql("select pg_reload_conf()");
  }
}

/** The rows that a consumer of the slot gets, and confirms. */
async function consume(server: Server): Promise<number[]> {
  const rows = await server.sql("select data from pg_logical_slot_get_changes('cdc', null, null)");
  return rows.flatMap(([data]) => {
    const row = /INSERT: a\[integer\]:(\d+)/.exec(data ?? "")?.[1];
    return row === undefined ? [] : [Number(row)];
  });
}

const copied = `select coalesce(bool_and(synced and not temporary and invalidation_reason is null), false)::text
  from pg_replication_slots where slot_name = 'cdc'`;

const consumed: number[] = [];

/** A copy is good once the original has moved on behind it, so there has to be some traffic. */
async function untilCopied(leader: Server, followers: readonly Server[], next: () => number): Promise<void> {
  await poll(
    async () => {
      await leader.sql(`insert into t values (${next()})`);
      await consume(leader).then((rows) => consumed.push(...rows));
      const states = await Promise.all(followers.map((each) => each.value(copied).catch(() => "")));
      return states.every((state) => state === "true");
    },
    { what: "copies of the slot", timeoutMs: 60_000, intervalMs: 100 },
  );
}

test("a logical slot with failover goes on where it was on the next leader", async (t) => {
  const cluster = await threeNodes(t, majority, slotSettings);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  let row = 0;
  const next = () => ++row;
  await n1.sql("select pg_create_logical_replication_slot('cdc', 'test_decoding', failover => true)");
  await copySlotsFrom(n1, [n2, n3]);
  await untilCopied(n1, [n2, n3], next);
  await n1.sql(`insert into t values (${next()})`);
  await n1.kill9();
  await cluster.lead("n2", 3, majority, ["n3"]);
  await n2.sql(`insert into t values (${next()})`);
  const changes = await consume(n2);
  t.same(changes.slice(-2), [row - 1, row], "nothing is missing");
  const again = changes.slice(0, -2);
  t.same(again, again.length === 0 ? [] : consumed.slice(-again.length), "some may come again");
  t.same(
    consumed,
    [...consumed.keys()].map((i) => i + 1),
  );

  // The old leader's slot is its own: it must make room for the copy.
  await n1.start();
  expectOk(await n1.ask({ cmd: "fence", term: 3 }));
  expectOk(await n1.ask({ cmd: "follow", term: 3, leader: "n2", conninfo: n2.conninfoFor("n1") }));
  await n1.untilValue("select count(*)::text from t", String(row));
  await n1.sql("select pg_drop_replication_slot('cdc')");
  await copySlotsFrom(n2, [n1, n3]);
  await untilCopied(n2, [n1, n3], next);
});
