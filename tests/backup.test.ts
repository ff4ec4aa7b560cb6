// Backups end to end: made without a command, restored over several terms, without what the quorum never had; and a
// node that lost its disk.
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { poll } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { type Test, test } from "tap";
import { freeBasePort, quorate, TestCluster } from "./lib/cluster.ts";
import { contentsOf, withClient } from "./lib/contents.ts";

const rowBytes = 1000;
const tailRows = 40_000;

async function insert(cluster: TestCluster, what: string): Promise<void> {
  await withClient(cluster.url(await cluster.leader()), async (client) => {
    await client.query(
      "insert into story (what, filler) select $1, repeat('x', 1000) from generate_series(1, 1000)",
      [what],
    );
  });
}

async function counts(cluster: TestCluster): Promise<Record<string, number>> {
  return withClient(cluster.url(await cluster.leader()), async (client) => {
    const { rows } = await client.query<{ what: string; n: number }>(
      "select what, count(*)::int as n from story group by 1 order by 1",
    );
    return Object.fromEntries(rows.map(({ what, n }) => [what, n]));
  });
}

async function failover(cluster: TestCluster): Promise<void> {
  const run = await quorate("failover", "--dir", cluster.dir);
  if (run.code !== 0) throw new Error(run.stderr);
}

/** A directory that doesn't exist yet, for a restored cluster; stopped and removed afterwards. */
function place(t: Test): string {
  const parent = mkdtempSync(path.join(tmpdir(), "quorate-restored-"));
  chmodSync(parent, 0o755);
  t.teardown(async () => {
    const dir = path.join(parent, "c");
    if (existsSync(paths.clusterFile(dir))) await quorate("down", "--dir", dir);
    if (process.env["QUORATE_KEEP"] === undefined) rmSync(parent, { recursive: true, force: true });
  });
  return path.join(parent, "c");
}

test("backups, a dropped tail, restores, a lost disk", async (t) => {
  const cluster = await TestCluster.prepare(t, { backup: true });
  try {
    await story(t, cluster);
  } catch (error) {
    t.comment(await cluster.story());
    throw error;
  }
});

async function story(t: Test, cluster: TestCluster): Promise<void> {
  const up = await cluster.up();
  const key = readFileSync(paths.repositoryKey(cluster.dir), "utf8").trim();
  t.equal(up.stdout.split(key).length, 2, "the key is shown, once");
  const first = await poll(async () => (await cluster.picture()).backup?.last ?? undefined, {
    what: "the first backup",
    timeoutMs: 60_000,
  });
  t.match(first, { type: "full" }, "a full backup was made without a command");
  const { http } = cluster.node(await cluster.leader()).ports;
  const headers = { authorization: `Bearer ${cluster.secret("api.token")}` };
  await poll(
    async () =>
      /^quorate_backups\{[^}]*\} 1$/m.test(
        await (await fetch(`http://127.0.0.1:${http}/metrics`, { headers })).text(),
      ) || undefined,
    { what: "the backup in the leader's metrics", timeoutMs: 30_000 },
  );
  for (const id of cluster.ids) t.notOk(cluster.log(id, "sidecar").includes(key), "no log holds the key");

  await withClient(cluster.url(await cluster.leader()), (client) =>
    client.query("create table story (id bigserial primary key, what text, filler text)"),
  );
  await insert(cluster, "first term");
  await failover(cluster);
  await insert(cluster, "second term");
  const between = await withClient(cluster.superuser(await cluster.leader()), async (client) => {
    await client.query("select pg_create_restore_point('before the third')");
    const sql = "select (clock_timestamp() at time zone 'UTC')::text as now";
    return String((await client.query<{ now: string }>(sql)).rows[0]?.now);
  });
  await failover(cluster);
  await insert(cluster, "third term");
  const before = await counts(cluster);

  const ex = await dropTail(t, cluster);
  await cluster.waitForLeader((id) => id !== ex);
  await insert(cluster, "after the tail");
  await lostDisk(t, cluster, ex);
  const expected = { "after the tail": 1000, ...before };
  t.same(await counts(cluster), expected);

  const all = await restored(t, cluster, ["latest", "--set", first.label, "--check"]);
  t.same(await counts(all), expected, "everything that was acknowledged over all terms, nothing of the tail");
  t.same(
    await contentsOf(all.url(await all.leader())),
    await contentsOf(cluster.url(await cluster.leader())),
    "the same contents",
  );
  const identifier = async (each: TestCluster) =>
    withClient(
      each.superuser(await each.leader()),
      async (client) =>
        (await client.query("select system_identifier::text as id from pg_control_system()")).rows[0]?.id,
    );
  t.not(await identifier(all), await identifier(cluster), "another identity");
  t.ok((await all.picture()).term > (await cluster.picture()).term, "higher terms");

  const earlier = await restored(t, cluster, ["--to-name", "before the third"]);
  t.same(
    await counts(earlier),
    { "first term": 1000, "second term": 1000 },
    "as it was at the restore point",
  );

  const atTime = await restored(t, cluster, ["--to-time", between]);
  t.same(await counts(atTime), { "first term": 1000, "second term": 1000 }, "as it was at the moment");

  const refused = await quorate("restore", "latest", "--dir", cluster.dir, "--into", cluster.dir);
  t.match(refused, { code: 1, stderr: /not empty/ });
  t.equal((await quorate("backup", "verify", "--dir", cluster.dir)).code, 0);
}

/** The leader, without its quorum, fills segments that nobody else has; then it dies. None of them is ever archived. */
async function dropTail(t: Test, cluster: TestCluster): Promise<string> {
  const leader = await cluster.leader();
  const others = cluster.ids.filter((id) => id !== leader);
  for (const id of others) process.kill(cluster.sidecarPid(id), "SIGSTOP");
  try {
    for (const id of others) cluster.killPostgres(id);
    const hopeless = withClient(cluster.url(leader), async (client) => {
      await client.query("set statement_timeout = 0");
      await client.query(
        "insert into story (what, filler) select 'tail', repeat('t', $1) from generate_series(1, $2)",
        [rowBytes, tailRows],
      );
    }).then(
      () => "acknowledged",
      () => "cut off",
    );
    const tailBytes = await poll(
      async () => {
        const bytes = await withClient(cluster.superuser(leader, "postgres"), async (client) => {
          await client.query("set quorate.read_proof = none");
          const sql =
            "select (pg_current_wal_flush_lsn() - commit_lsn)::bigint as bytes from quorate.status()";
          return Number((await client.query(sql)).rows[0]?.bytes);
        });
        return bytes > 17 * 1024 ** 2 ? bytes : undefined;
      },
      { what: "a tail of more than a segment", timeoutMs: 20_000 },
    );
    t.ok(tailBytes > 0, `a tail of ${tailBytes} bytes`);
    process.kill(cluster.sidecarPid(leader), "SIGKILL");
    cluster.killPostgres(leader);
    rmSync(path.join(paths.node(cluster.dir, leader), "data"), { recursive: true, force: true });
    t.equal(await hopeless, "cut off", "nobody was told that the tail is committed");
  } finally {
    for (const id of others) process.kill(cluster.sidecarPid(id), "SIGCONT");
  }
  return leader;
}

async function lostDisk(t: Test, cluster: TestCluster, id: string): Promise<void> {
  await cluster.waitUntilWhole(90_000);
  t.match(
    cluster.log(id, "sidecar"),
    /restoring from the backup/,
    "the node is back from backup, archive and stream",
  );
}

async function restored(t: Test, cluster: TestCluster, target: string[]): Promise<TestCluster> {
  const dir = place(t);
  const basePort = await freeBasePort();
  const run = await quorate(
    "restore",
    ...target,
    "--dir",
    cluster.dir,
    "--into",
    dir,
    "--nodes",
    "1",
    "--base-port",
    String(basePort),
  );
  t.equal(run.code, 0, `restored ${target.join(" ")}`);
  t.equal(run.stderr, "");
  const other = TestCluster.at(dir, basePort);
  const up = await quorate("up", "--dir", dir, "--detach");
  if (up.code !== 0) throw new Error(up.stderr + (await other.story()));
  return other;
}
