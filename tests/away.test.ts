// Nodes that were away until nobody has the WAL any more that they would need: nobody kept it for them, and they are made
// anew by themselves when they are back.
import { poll } from "@quorate/common";
import t, { type Test } from "tap";
import { done, TestCluster } from "./lib/cluster.ts";
import { contentsOf, withClient } from "./lib/contents.ts";

const kept = "wal_keep_size=32MB";
const observer = "watcher";

/** Where a node's log ended last, as the number of its segment; and the oldest segment that a node has. */
const ends = "select split_part(pg_walfile_name_offset(pg_current_wal_flush_lsn())::text, ',', 1) as name";
const oldest = "select min(name) as name from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'";
const segmentOf = (text: string): string => /[0-9A-F]{24}/.exec(text)?.[0] ?? "";

async function one(cluster: TestCluster, id: string, sql: string): Promise<string> {
  const { rows } = await withClient(cluster.superuser(id), (client) => client.query<{ name: string }>(sql));
  return segmentOf(rows[0]?.name ?? "");
}

/** Writes until each of the nodes has removed the segment. */
async function outlive(cluster: TestCluster, leader: string, ids: readonly string[], segment: string) {
  await poll(
    async () => {
      await withClient(cluster.superuser(leader), async (client) => {
        await client.query("insert into filling select g, repeat('x', 500) from generate_series(1, 40000) g");
        await client.query("select pg_switch_wal()");
      });
      for (const id of [leader, ...ids])
        await withClient(cluster.superuser(id), (client) => client.query("checkpoint"));
      const left = await Promise.all([leader, ...ids].map((id) => one(cluster, id, oldest)));
      return left.every((each) => each > segment);
    },
    { what: `${segment} to be gone everywhere`, timeoutMs: 120_000, intervalMs: 100 },
  );
}

async function streams(cluster: TestCluster, id: string): Promise<void> {
  await poll(async () => (await cluster.pictureOf(id)).streaming || undefined, {
    what: `${id} to stream`,
    timeoutMs: 120_000,
    intervalMs: 50,
  });
}

/** Away for too long, and back. */
async function away(test: Test, cluster: TestCluster, leader: string, id: string): Promise<void> {
  const copies = () => cluster.log(id, "sidecar").match(/copying the data|restoring from the backup/g) ?? [];
  const before = copies().length;
  await streams(cluster, id);
  await done(test, cluster, "node", "stop", id);
  const segment = await one(cluster, leader, ends);
  test.not(segment, "");
  const others = cluster.ids.filter((each) => each !== leader && each !== id);
  await outlive(cluster, leader, others, segment);
  test.notOk((await cluster.pictureOf(id)).streaming, `${id} is away`);

  await done(test, cluster, "node", "start", id);
  await streams(cluster, id);
  test.equal(copies().length, before + 1, `${id} is made anew, once`);
  const expected = await contentsOf(cluster.superuser(leader));
  await poll(
    async () => JSON.stringify(await contentsOf(cluster.superuser(id))) === JSON.stringify(expected),
    { what: `${id} to have everything`, timeoutMs: 60_000, intervalMs: 250 },
  );
  test.equal(await cluster.leader(), leader, "nothing else happened");
}

t.test("an observer, and a follower, which then counts again", async (test) => {
  const cluster = await TestCluster.start(test, { nodes: 3 });
  await cluster.waitUntilWhole();
  const members = cluster.ids;
  await done(test, cluster, "cluster", "set", "--value", kept, "--value", "max_wal_size=64MB");
  await done(test, cluster, "node", "add", "--observer", "--id", observer);
  cluster.reopen();
  const leader = await cluster.leader();
  await withClient(cluster.superuser(leader), (client) =>
    client.query("create table filling (n int, x text)"),
  );
  await away(test, cluster, leader, observer);
  const follower = members.find((id) => id !== leader) as string;
  await away(test, cluster, leader, follower);
  const cohort = async () => (await cluster.picture()).ruleset?.cohort.includes(follower) === true;
  await poll(cohort, { what: `${follower} to be in the cohort again`, timeoutMs: 60_000 });
});
