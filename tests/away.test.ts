// Nodes that were away until nobody has the WAL any more that they would need: nobody kept it for them. When they are back
// they are brought up to date from the archive, or, where there is none, made anew, by themselves.
import { poll } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { livePid } from "@quorate/orchestrator/cluster/processes.ts";
import t, { type Test } from "tap";
import { archiveNow, eventsOf, waitForBackups } from "./lib/backup-cluster.ts";
import { done, TestCluster } from "./lib/cluster.ts";
import { amcheck, contentsOf, withClient } from "./lib/contents.ts";
import { dieWithTail } from "./lib/dead-tail.ts";

const kept = { wal_keep_size: "32MB", max_wal_size: "64MB" };
const observer = "watcher";
/** More than `filling` writes. */
const tailSegments = 3;
const filling = "insert into filling select g, repeat('x', 500) from generate_series(1, 40000) g";

/** The number of the segment in which a node's log ends, and of the oldest that it has. */
const end = "select ((pg_current_wal_flush_lsn() - '0/0') / (16 * 1024 * 1024))::bigint as number";
const oldest = `
  select min(('x' || substr(name, 9, 8))::bit(32)::bigint * 256 + ('x' || substr(name, 17, 8))::bit(32)::bigint) as number
    from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'`;

async function segmentOf(cluster: TestCluster, id: string, sql: string): Promise<number> {
  const { rows } = await withClient(cluster.superuser(id), (client) => client.query<{ number: string }>(sql));
  return Number(rows[0]?.number);
}

/** Writes until each of the nodes has removed the segment. */
async function outlive(cluster: TestCluster, leader: string, ids: readonly string[], segment: number) {
  await poll(
    async () => {
      await withClient(cluster.superuser(leader), async (client) => {
        await client.query(filling);
        await client.query("select pg_switch_wal()");
      });
      for (const id of [leader, ...ids])
        await withClient(cluster.superuser(id), (client) => client.query("checkpoint"));
      const left = await Promise.all([leader, ...ids].map((id) => segmentOf(cluster, id, oldest)));
      return left.every((each) => each > segment);
    },
    { what: `segment ${segment} to be gone everywhere`, timeoutMs: 120_000, intervalMs: 100 },
  );
}

async function streams(cluster: TestCluster, id: string): Promise<void> {
  await poll(async () => (await cluster.pictureOf(id)).streaming || undefined, {
    what: `${id} to stream`,
    timeoutMs: 120_000,
    intervalMs: 50,
  });
}

async function hasEverything(test: Test, cluster: TestCluster, leader: string, id: string): Promise<void> {
  const expected = await contentsOf(cluster.superuser(leader));
  await poll(
    async () => JSON.stringify(await contentsOf(cluster.superuser(id))) === JSON.stringify(expected),
    { what: `${id} to have everything`, timeoutMs: 60_000, intervalMs: 250 },
  );
  test.equal(await cluster.leader(), leader, "nothing else happened");
  test.same(await amcheck(cluster.superuser(id)), [], "amcheck finds nothing");
}

const copies = (cluster: TestCluster, id: string): number =>
  cluster.log(id, "sidecar").match(/copying the data|restoring from the backup/g)?.length ?? 0;

/** Away for too long, and back. */
async function away(
  test: Test,
  cluster: TestCluster,
  leader: string,
  id: string,
  back: () => Promise<void>,
): Promise<void> {
  await streams(cluster, id);
  await done(test, cluster, "node", "stop", id);
  const segment = await segmentOf(cluster, leader, end);
  const others = cluster.ids.filter((each) => each !== leader && each !== id);
  await outlive(cluster, leader, others, segment);
  test.notOk((await cluster.pictureOf(id)).streaming, `${id} is away`);
  await back();
  await hasEverything(test, cluster, leader, id);
}

async function madeAnew(test: Test, cluster: TestCluster, id: string): Promise<void> {
  const before = copies(cluster, id);
  await done(test, cluster, "node", "start", id);
  await streams(cluster, id);
  test.equal(copies(cluster, id), before + 1, `${id} is made anew, once`);
}

/** It keeps its data directory: only log was fetched. */
async function updated(
  test: Test,
  cluster: TestCluster,
  id: string,
  begin: () => Promise<unknown>,
): Promise<void> {
  const before = cluster.dataIdentity(id);
  await begin();
  const event = await poll(() => eventOf(cluster, id), {
    what: `${id} to say what was done`,
    timeoutMs: 120_000,
  });
  test.match(event, { ok: true, outcome: /brought up to date from \d+ archived segments/ });
  await streams(cluster, id);
  test.equal(cluster.dataIdentity(id), before, `${id} has the data directory that it had`);
}

async function eventOf(cluster: TestCluster, id: string) {
  return (await eventsOf(cluster, "outdated_node")).find(({ by }) => by === id);
}

async function prepare(cluster: TestCluster): Promise<string> {
  const leader = await cluster.leader();
  await withClient(cluster.superuser(leader), (client) => client.query("create extension amcheck"));
  await withClient(cluster.url(leader), (client) => client.query("create table filling (n int, x text)"));
  return leader;
}

async function counts(cluster: TestCluster, id: string): Promise<void> {
  const inCohort = async () => (await cluster.picture()).ruleset?.cohort.includes(id) === true;
  await poll(inCohort, { what: `${id} to be in the cohort again`, timeoutMs: 60_000 });
}

t.test("without backups: an observer, and a follower, which then counts again", async (test) => {
  const cluster = await TestCluster.start(test, { nodes: 3, settings: kept });
  await cluster.waitUntilWhole();
  const members = cluster.ids;
  await done(test, cluster, "node", "add", "--observer", "--id", observer);
  const leader = await prepare(cluster);
  const follower = members.find((id) => id !== leader) as string;
  for (const id of [observer, follower])
    await away(test, cluster, leader, id, () => madeAnew(test, cluster, id));
  await counts(cluster, follower);
});

t.test("with backups: a follower, and a leader that died with a tail that nobody has", async (test) => {
  const cluster = await TestCluster.start(test, { nodes: 3, settings: kept, backup: true });
  await cluster.waitUntilWhole();
  await waitForBackups(cluster, "the first backup", ({ last }) => last ?? undefined);
  const leader = await prepare(cluster);
  const follower = cluster.ids.find((id) => id !== leader) as string;
  const start = async () => {
    await archiveNow(cluster);
    await done(test, cluster, "node", "start", follower);
  };
  await away(test, cluster, leader, follower, () => updated(test, cluster, follower, start));
  await counts(cluster, follower);

  // The supervisor would start its sidecar again at once.
  const supervisor = livePid(paths.supervisorPid(cluster.dir)) ?? 0;
  process.kill(supervisor, "SIGSTOP");
  let next = "";
  try {
    const last = (await segmentOf(cluster, leader, end)) + tailSegments;
    await dieWithTail(test, cluster, leader, filling);
    next = await cluster.waitForLeader((id) => id !== leader);
    await outlive(
      cluster,
      next,
      cluster.ids.filter((id) => id !== leader && id !== next),
      last,
    );
    await archiveNow(cluster);
  } finally {
    process.kill(supervisor, "SIGCONT");
  }
  await updated(test, cluster, leader, async () => undefined);
  await hasEverything(test, cluster, next, leader);
  await counts(cluster, leader);
});
