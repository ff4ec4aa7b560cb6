/**
 * A leader without its quorum, whatever it is doing: sessions that are there read, its control socket answers, a
 * follower that had to connect anew can, and with it everything goes on by itself. Each entry once ended a prototype.
 */
import { poll, runAsPostgres } from "@quorate/common";
import pg from "pg";
import { type Test, test } from "tap";
import type { Cluster, Server } from "../lib/cluster.ts";
import { freezeReceiver, threeNodes } from "../lib/three-nodes.ts";

const answerMs = 5_000;

function bounded<T>(what: string, promise: Promise<T>, ms = answerMs): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no answer within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What a walreceiver does first: connect, authenticate, ask who it is. */
async function connectsAsWalsender(leader: Server): Promise<void> {
  const client = new pg.Client({
    host: leader.socketDirectory,
    port: 5432,
    user: "postgres",
    options: "-cquorate.member=on",
    replication: "true",
  } as pg.ClientConfig);
  client.on("error", () => undefined);
  try {
    await bounded("connect", client.connect());
    await bounded("IDENTIFY_SYSTEM", client.query("IDENTIFY_SYSTEM"));
  } finally {
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  }
}

type Entry = {
  readonly name: string;
  readonly before?: string;
  /** Must not end before the quorum is back, and must end then. */
  readonly run: (leader: Server, cluster: Cluster) => Promise<unknown>;
  readonly newSessionsToo?: boolean;
};

const statement =
  (...texts: string[]) =>
  async (leader: Server): Promise<void> => {
    const client = await leader.connect();
    for (const text of texts) await client.query(text);
  };

const entries: readonly Entry[] = [
  { name: "commit", run: statement("insert into t values (1)"), newSessionsToo: true },
  {
    name: "every buffer dirty",
    run: statement("update big set b = b + 1"),
    newSessionsToo: true,
  },
  { name: "checkpoint", run: statement("insert into t values (1)", "checkpoint"), newSessionsToo: true },
  { name: "CREATE DATABASE", run: statement("create database other") },
  {
    name: "CREATE DATABASE by file copy",
    run: statement("create database another strategy file_copy"),
  },
  { name: "VACUUM FULL pg_class", run: statement("vacuum full pg_class") },
  { name: "VACUUM FULL pg_database", run: statement("vacuum full pg_database") },
  {
    name: "VACUUM that truncates",
    before: "delete from big where a > 10000",
    run: statement("vacuum big"),
  },
  { name: "DROP TABLE", run: statement("drop table dropped"), newSessionsToo: true },
  {
    name: "PREPARE TRANSACTION",
    run: statement("begin", "insert into t values (2)", "prepare transaction 'p'", "rollback prepared 'p'"),
    newSessionsToo: true,
  },
  {
    name: "CREATE INDEX CONCURRENTLY",
    run: statement("create index concurrently on big (c)"),
    newSessionsToo: true,
  },
  { name: "TRUNCATE", run: statement("truncate t"), newSessionsToo: true },
  {
    name: "a logical slot",
    run: statement(
      "insert into t values (3)",
      "select pg_create_logical_replication_slot('s', 'pgoutput')",
      "select pg_drop_replication_slot('s')",
    ),
    newSessionsToo: true,
  },
  {
    name: "base backup",
    run: async (leader, cluster) =>
      runAsPostgres(
        `${cluster.bin}/pg_basebackup`,
        [
          "-D",
          `${cluster.dir}/backup`,
          "-h",
          leader.socketDirectory,
          "-p",
          "5432",
          "-U",
          "postgres",
          "-c",
          "fast",
        ],
        { timeoutMs: 120_000 },
      ),
    newSessionsToo: true,
  },
];

async function play(t: Test, cluster: Cluster, entry: Entry): Promise<void> {
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  if (entry.before !== undefined) await n1.sql(entry.before);
  const reader = await n1.connect();
  await reader.query("select count(*) from small");
  freezeReceiver(n2);
  const thaw3 = freezeReceiver(n3);
  let ended = false;
  // something must wait, whatever the entry does
  const client = await n1.connect();
  const insert = client.query("insert into t values (0)");
  const outcome = entry.run(n1, cluster).then(
    () => "done",
    (error: unknown) => String(error),
  );
  const watched = outcome.then((how) => {
    ended = true;
    return how;
  });
  await n1.untilStatus("waiting backends", ({ waiting }) => waiting >= 1);
  await new Promise((resolve) => setTimeout(resolve, 500)); // for the entry to get where it waits
  t.equal(ended, false, "waits for the quorum");
  await bounded("a read", reader.query("select count(*) from small"));
  await bounded("the control socket", n1.status());
  for (let i = 0; i < 3; i++) await connectsAsWalsender(n1);
  if (entry.newSessionsToo === true) await bounded("a new session", n1.sql("select count(*) from small"));
  // the follower's machine is replaced: it has to connect and authenticate
  await n2.kill9();
  await n2.start();
  await cluster.follow("n2", "n1", 2);
  t.equal(await bounded("the end of it", watched, 60_000), "done", "goes on by itself");
  await bounded("the insert", insert, 20_000);
  thaw3();
  await reader.end();
  await poll(async () => (await n1.status()).followers.length === 2, {
    what: "both followers to be back",
    timeoutMs: 30_000,
  });
}

test("without a quorum the leader stays responsive", async (t) => {
  const cluster = await threeNodes(t, "2(n1,n2,n3)", [
    "shared_buffers = 1MB",
    "wal_level = logical",
    "autovacuum = off",
    "wal_sender_timeout = 30s",
  ]);
  const n1 = cluster.node("n1");
  await n1.sql(`create table small as select g as a from generate_series(1, 100) g;
    create table dropped (a int);
    create table big as select g as a, 0 as b, repeat('z', 100) as c from generate_series(1, 20000) g`);
  await n1.sql("vacuum analyze");
  for (const entry of entries) await t.test(entry.name, (sub) => play(sub, cluster, entry));
});
