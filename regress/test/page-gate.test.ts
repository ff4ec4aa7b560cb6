/**
 * Why pages wait for the quorum, too: a leader without one goes on with updates, an index, a checkpoint, evictions. It
 * dies, another one leads, it comes back. With the gate off (a developer's setting) it isn't the same any more.
 */
import { poll } from "@quorate/common";
import { parseLsn } from "@quorate/consensus";
import { type Test, test } from "tap";
import { amcheck, contentsOf } from "../../tests/lib/contents.ts";
import type { Server } from "../lib/cluster.ts";
import { freezeReceiver, majority, threeNodes } from "../lib/three-nodes.ts";

const target = (server: Server) => ({
  host: server.socketDirectory,
  port: 5432,
  user: "postgres",
  database: "postgres",
});

/** What is wrong with the ex-leader afterwards. */
async function tailDropped(t: Test, settings: readonly string[]): Promise<string[]> {
  const cluster = await threeNodes(t, majority, [
    "shared_buffers = 2MB",
    "max_wal_size = 64MB",
    "bgwriter_delay = 20ms",
    "bgwriter_lru_maxpages = 1000",
    ...settings,
  ]);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  await n1.sql(`create extension amcheck;
    create table big (a int primary key, b int, c text);
    insert into big select g, 0, repeat('z', 100) from generate_series(1, 20000) g;
    create index on big (b);
    checkpoint`);
  for (const each of [n2, n3]) await each.untilValue("select count(*) from big", "20000");
  for (const each of [n2, n3]) freezeReceiver(each);
  const doomed = [
    "update big set b = b + 1 where a % 3 = 0",
    "create index on big (c, a)",
    "delete from big where a % 5 = 0",
    "create table late as select g as a from generate_series(1, 20000) g",
  ];
  for (const statement of doomed) {
    const client = await n1.connect();
    client.query(statement).catch(() => undefined);
  }
  await n1.untilStatus(
    "has a tail",
    ({ flushedLsn, commitLsn }) =>
      (parseLsn(flushedLsn ?? "") ?? 0n) - (parseLsn(commitLsn ?? "") ?? 0n) > 300_000n,
  );
  const checkpoint = await n1.connect();
  // with the gate this waits, without it it ends
  await Promise.race([
    checkpoint.query("checkpoint").catch(() => undefined),
    new Promise((resolve) => setTimeout(resolve, 3000)),
  ]);
  await n1.kill9();
  for (const each of [n2, n3]) {
    await each.kill9();
    await each.start();
  }
  await cluster.lead("n2", 9, majority, ["n3"]);
  await n2.sql("create table fresh as select g as a, repeat('f', 100) as b from generate_series(1, 5000) g");
  await n2.sql("update big set b = b + 7 where a % 2 = 0");
  await n1.start();
  await cluster.follow("n1", "n2", 9);
  const { commitLsn } = await n2.status();
  const came = await poll(
    () =>
      n1
        .value(`select (pg_last_wal_replay_lsn() >= '${commitLsn}')::text`)
        .then((answer) => answer === "true")
        .catch(() => false),
    { what: "n1 to apply it", timeoutMs: 15_000, intervalMs: 100 },
  ).catch(() => false);
  if (!came) return ["it does not come back"];
  const expected = await contentsOf(target(n2));
  const contents = await contentsOf(target(n1)).catch((error: unknown) => ({ error: String(error) }));
  const different = JSON.stringify(contents) === JSON.stringify(expected) ? [] : ["other contents"];
  return [...different, ...(await amcheck(target(n1)).catch((error: unknown) => [String(error)]))];
}

test("an ex-leader drops its tail and is the same as the others", async (t) => {
  t.same(await tailDropped(t, []), []);
});

test("control: with the page gate off it is not", async (t) => {
  const wrong = await tailDropped(t, ["quorate.debug_page_gate = off"]);
  t.comment(wrong.slice(0, 5));
  t.not(wrong.length, 0);
});
