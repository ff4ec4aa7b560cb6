/**
 * A leader without its quorum: writers are held up before they fill the buffer pool or the disk, readers and new
 * connections are not, and everything goes on by itself when the quorum is back.
 */
import { poll } from "@quorate/common";
import { test } from "tap";
import type { Server } from "../lib/cluster.ts";
import { freezeReceiver, majority, threeNodes } from "../lib/three-nodes.ts";

const poolPages = 512;
const settings = ["shared_buffers = 4MB", "autovacuum = off", "statement_timeout = 0"];

/** How much WAL the leader has that isn't committed, in bytes. */
async function uncommitted(leader: Server): Promise<number> {
  return Number(await leader.value("select pg_current_wal_insert_lsn() - quorate.commit_lsn()"));
}

const untilHeldUp = (leader: Server, what: string) =>
  leader.untilValue(
    `select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like '%${what}%' and backend_type = 'client backend'`,
    "1",
  );

test("a writer is held up before the pool is full; readers go on; it ends with the quorum", async (t) => {
  const cluster = await threeNodes(t, majority, settings);
  const leader = cluster.node("n1");
  await leader.sql(
    "create table big as select i, repeat('x', 500) as filler from generate_series(1, 20000) i",
  );
  await leader.sql("analyze big");
  await leader.sql("checkpoint");
  await leader.sql("create table w (a int, filler text)");
  const bigPages = Number(await leader.value("select relpages from pg_class where relname = 'big'"));
  t.ok(bigPages > 2 * poolPages, `the table to read has ${bigPages} pages`);

  const thaw = ["n2", "n3"].map((id) => freezeReceiver(cluster.node(id)));
  const writer = await leader.connect();
  const insert = writer.query("insert into w select i, repeat('y', 500) from generate_series(1, 20000) i");
  insert.catch(() => undefined);
  await untilHeldUp(leader, "insert into w select i");

  const before = await uncommitted(leader);
  t.equal(await leader.value("select count(*) from big"), "20000", "a scan of more than the pool");
  const late = await leader.connect();
  const { rows } = await late.query("select count(*)::int as n from w");
  t.same(rows, [{ n: 0 }], "a new connection, and nothing of the insert is visible");
  t.equal(await leader.value("select count(*) from pg_stat_replication"), "2");

  const second = await leader.connect();
  const pid = (await second.query<{ pid: number }>("select pg_backend_pid() as pid")).rows[0]?.pid;
  const cancelled = second.query("insert into w select i, repeat('z', 500) from generate_series(1, 20000) i");
  cancelled.catch(() => undefined);
  await leader.untilValue(
    "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like 'insert into w%'",
    "2",
  );
  await leader.sql(`select pg_cancel_backend(${pid})`);
  await t.rejects(cancelled, { code: "57014" }, "the wait can be cancelled");
  const after = await uncommitted(leader);
  t.ok(after - before < 4 * 1024 * 1024, `uncommitted WAL is bounded: ${before}, then ${after} bytes`);

  for (const go of thaw) go();
  await insert;
  t.equal(await leader.value("select count(*) from w"), "20000");
});

test("hint bits and pruning by readers don't fill the pool either", async (t) => {
  const cluster = await threeNodes(t, majority, settings);
  const leader = cluster.node("n1");
  await leader.sql(
    "create table hints as select i, repeat('x', 500) as filler from generate_series(1, 20000) i",
  );
  await leader.sql("update hints set i = -i; checkpoint");
  t.equal(await leader.value("show data_checksums"), "on", "so that hint bits take WAL");
  const thaw = ["n2", "n3"].map((id) => freezeReceiver(cluster.node(id)));
  for (let i = 0; i < 3; i++)
    t.equal(await leader.value("select count(*) from hints"), "20000", "no reader is held up");
  for (const go of thaw) go();
  await leader.sql("insert into t values (1)");
});

test("uncommitted WAL stays below quorate.max_uncommitted_wal, also of a transaction that touches one page", async (t) => {
  const limitKb = 1024;
  const cluster = await threeNodes(t, majority, [
    "shared_buffers = 64MB",
    `quorate.max_uncommitted_wal = ${limitKb}kB`,
  ]);
  const leader = cluster.node("n1");
  await leader.sql("insert into t values (0)");
  const thaw = ["n2", "n3"].map((id) => freezeReceiver(cluster.node(id)));
  const writer = await leader.connect();
  const loop = writer.query("do $$ begin for i in 1 .. 100000 loop update t set a = i; end loop; end $$");
  loop.catch(() => undefined);
  await untilHeldUp(leader, "update t set a = i");
  const bytes = await uncommitted(leader);
  t.ok(bytes < 2 * limitKb * 1024, `${bytes} bytes with a limit of ${limitKb} kB`);
  await leader.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like 'do %'");
  await t.rejects(loop);
  for (const go of thaw) go();
  await leader.sql("insert into t values (1)");
  await poll(async () => ((await uncommitted(leader)) < 1024 ? true : undefined), {
    what: "the quorum to catch up",
    timeoutMs: 20_000,
  });
});

test("many writers with the quorum there: back-pressure comes and goes, and all of it arrives", async (t) => {
  const cluster = await threeNodes(t, majority, [...settings, "quorate.max_uncommitted_wal = 256kB"]);
  const leader = cluster.node("n1");
  const clients = await Promise.all(Array.from({ length: 6 }, () => leader.connect()));
  await Promise.all(
    clients.map((client, i) =>
      client.query(`insert into t select ${i} * 10000 + j from generate_series(1, 10000) j`),
    ),
  );
  t.equal(await leader.value("select count(distinct a) from t"), "60000");
  for (const id of ["n2", "n3"])
    await cluster.node(id).untilValue("select count(distinct a) from t", "60000");
});
