// Backups end to end: made without a command, restored over several terms, without what the quorum never had; and a
// node that lost its disk.
import { readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { poll } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { type Test, test } from "tap";
import { eventsOf, metricsOf, restored, waitForBackups } from "./lib/backup-cluster.ts";
import { quorate, TestCluster } from "./lib/cluster.ts";
import { contentsOf, withClient } from "./lib/contents.ts";
import { dieWithTail } from "./lib/dead-tail.ts";

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

test("backups, a dropped tail, restores, a lost disk", async (t) => {
  const cluster = await TestCluster.prepare(t, { backup: true });
  await story(t, cluster);
});

async function story(t: Test, cluster: TestCluster): Promise<void> {
  const up = await cluster.up();
  const key = readFileSync(paths.repositoryKey(cluster.dir), "utf8").trim();
  t.equal(up.stdout.split(key).length, 2, "the key is shown, once");
  const spy = spyForSecrets([key, cluster.secret("replication.password"), cluster.secret("app.password")]);
  const first = await waitForBackups(cluster, "the first backup", ({ last }) => last ?? undefined);
  t.match(first, { type: "full" }, "a full backup was made without a command");
  const leader = await cluster.leader();
  await poll(
    async () => /^quorate_backups\{[^}]*\} 1$/m.test(await metricsOf(cluster, leader)) || undefined,
    {
      what: "the backup in the leader's metrics",
      timeoutMs: 60_000,
    },
  );
  await withClient(cluster.url(await cluster.leader()), (client) =>
    client.query("create table story (id bigserial primary key, what text, filler text)"),
  );
  await insert(cluster, "first term");
  const lsn = await withClient(cluster.superuser(await cluster.leader()), async (client) => {
    const sql = "select pg_current_wal_insert_lsn()::text as lsn";
    return String((await client.query<{ lsn: string }>(sql)).rows[0]?.lsn);
  });
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

  const ex = await cluster.leader();
  const sql =
    "insert into story (what, filler) select 'tail', repeat('t', 1000) from generate_series(1, 40000)";
  await dieWithTail(t, cluster, ex, sql, () =>
    rmSync(path.join(paths.node(cluster.dir, ex), "data"), { recursive: true, force: true }),
  );
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

  const atLsn = await restored(t, cluster, ["--to-lsn", lsn]);
  t.same(await counts(atLsn), { "first term": 1000 }, "as it was at the position, three terms ago");

  t.same(spy.end(), [], "no secret was on a command line or in a program's environment");
  t.same(filesWith(cluster.dir, key), ["backup/pgbackrest.conf", "secrets/repository.key"], "nor in a log");

  const refused = await quorate("restore", "latest", "--dir", cluster.dir, "--into", cluster.dir);
  t.match(refused, { code: 1, stderr: /not empty/ });
  t.equal((await quorate("backup", "verify", "--dir", cluster.dir)).code, 0);
}

/** Back without an operator, from backup, archive and stream; the leader sends no copy. */
async function lostDisk(t: Test, cluster: TestCluster, id: string): Promise<void> {
  await poll(async () => (await cluster.pictureOf(id)).clone?.from === "backup" || undefined, {
    what: "status to show how far the new node is",
    timeoutMs: 120_000,
    intervalMs: 20,
  });
  await cluster.waitUntilWhole(120_000);
  const log = cluster.log(id, "sidecar");
  t.match(log, /restoring from the backup/, "the node is back from backup, archive and stream");
  const story = log.slice(log.lastIndexOf("restoring from the backup"));
  t.notMatch(story, /copying from a node instead/);
  const made = (await eventsOf(cluster, "new_node")).filter((event) => event.by === id && event.ok);
  t.ok(made.length > 0, "the audit trail tells of it");
}

/** Looks at all processes again and again; `end` tells which of them had a secret where others can see it. */
function spyForSecrets(secrets: readonly string[]): { end: () => string[] } {
  const found = new Set<string>();
  const look = (): void => {
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name)))
      for (const file of ["cmdline", "environ"]) {
        try {
          const text = readFileSync(`/proc/${pid}/${file}`, "utf8");
          if (secrets.some((secret) => text.includes(secret))) found.add(`${file}: ${text.slice(0, 200)}`);
        } catch {
          // It has ended.
        }
      }
  };
  const timer = setInterval(look, 200);
  return {
    end: () => {
      clearInterval(timer);
      return [...found];
    },
  };
}

/** Logs, states, scripts, configurations: everything but the data itself. Nodes' names are left out. */
function filesWith(directory: string, secret: string): string[] {
  const files = readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))
    .filter((name) => !/^(backup|nodes\/[^/]+\/(data|tablespaces))\//.test(name));
  const having = files.filter((name) => readFileSync(path.join(directory, name)).includes(secret));
  return [...new Set(having.map((name) => name.replace(/^nodes\/[^/]+\//, "")))].sort();
}
