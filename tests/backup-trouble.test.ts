// A repository that is away: the leader goes on, the alarm comes long before WAL is dropped, what was dropped is made up
// for, and what can't be made up for is a gap that a new backup closes. All of it in status, events and metrics.
import { readdirSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { poll } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { type Test, test } from "tap";
import {
  archiveNow,
  eventsOf,
  metricsOf,
  prepareBackupCluster,
  reportsOf,
  start,
  switchWal,
  waitForBackups,
} from "./lib/backup-cluster.ts";
import { quorate, type TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";

const segmentBytes = 16 * 1024 ** 2;
const alarmSegments = 3;
const limitSegments = 10;

test("a repository that is away", async (t) => {
  const cluster = await prepareBackupCluster(t, {
    backup: (usual) => ({
      ...usual,
      archive: { alarmBytes: alarmSegments * segmentBytes, limitBytes: limitSegments * segmentBytes },
    }),
  });
  await start(cluster);
  await waitForBackups(cluster, "the first backup", ({ last }) => last !== null);
  await cluster.waitUntilWhole();
  await withClient(cluster.url(await cluster.leader()), (client) =>
    client.query("create table went_on (n int)"),
  );
  await dropped(t, cluster);
  await lost(t, cluster);
});

const away = (cluster: TestCluster): (() => void) => {
  const directory = paths.repository(cluster.dir);
  renameSync(directory, `${directory}.away`);
  return () => renameSync(`${directory}.away`, directory);
};

function waiting(cluster: TestCluster, leader: string): number {
  const status = path.join(paths.node(cluster.dir, leader), "data/pg_wal/archive_status");
  return readdirSync(status).filter((name) => /^[0-9A-F]{24}\.ready$/.test(name)).length;
}

async function write(cluster: TestCluster, leader: string, segments: number): Promise<string[]> {
  const names: string[] = [];
  for (let i = 0; i < segments; i++) {
    await withClient(cluster.url(leader), (client) => client.query("insert into went_on values ($1)", [i]));
    names.push(await switchWal(cluster, leader));
  }
  return names;
}

/** An archiver that failed three times sleeps for a minute, unless there is something new. */
async function pushUntil(
  cluster: TestCluster,
  leader: string,
  what: string,
  done: () => boolean,
): Promise<void> {
  await poll(
    async () => {
      if (done()) return true;
      await write(cluster, leader, 1);
      return undefined;
    },
    { what, timeoutMs: 120_000, intervalMs: 3000, seen: () => archiving(cluster, leader) },
  );
}

/** What waits, and what the push script left. */
function archiving(cluster: TestCluster, leader: string): string {
  const directory = path.join(paths.node(cluster.dir, leader), "backup");
  const left = readdirSync(directory).filter((name) => !name.endsWith(".conf"));
  return `${waiting(cluster, leader)} segments wait; ${directory} has ${left.join(", ")}`;
}

/** What was dropped is still in pg_wal: it is archived in portions that don't reach the limit again. */
async function dropped(t: Test, cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  const back = away(cluster);
  await write(cluster, leader, alarmSegments + 1);
  const seen = await waitForBackups(cluster, "the alarms", ({ alarms, archive }) => {
    const codes = alarms.map(({ code }) => code);
    return (
      codes.includes("archive_lagging") && codes.includes("repository_unreachable") && { alarms, archive }
    );
  });
  t.equal(seen.archive?.gap, null, "nothing is lost when the alarm comes");
  t.ok(waiting(cluster, leader) < limitSegments / 2, "long before the limit");
  const status = await quorate("status", "--dir", cluster.dir);
  t.match(status.stdout, /ALARM repository_unreachable .*backup\.repository/, "status says what to do");
  t.match(status.stdout, /ALARM archive_lagging .*WAL segments wait/);
  const metrics = await metricsOf(cluster, leader);
  t.match(metrics, /quorate_backup_alarm\{[^}]*code="repository_unreachable"[^}]*\} 1/);

  const names = await write(cluster, leader, limitSegments + 4);
  const most = limitSegments + 1;
  await pushUntil(
    cluster,
    leader,
    "WAL beyond the limit to be dropped",
    () => waiting(cluster, leader) <= most,
  );
  t.ok(waiting(cluster, leader) <= most, "what waits is bounded, the leader goes on");
  await withClient(cluster.url(leader), (client) => client.query("insert into went_on values (100)"));
  back();
  await waitForBackups(cluster, "no alarm any more", ({ alarms }) => alarms.length === 0);
  const last = names.at(-1) ?? "";
  await poll(
    async () => {
      const run = await quorate("restore", "latest", "--dry-run", "--json", "--dir", cluster.dir);
      return (run.code === 0 && JSON.parse(run.stdout).lastSegment >= last) || undefined;
    },
    { what: "every segment to be in the archive", timeoutMs: 120_000, intervalMs: 1000 },
  );
  const reports = await reportsOf(cluster);
  t.equal(reports.get(leader)?.archive?.gap, null, "what was dropped was made up for: no gap");
  const codes = (await eventsOf(cluster, "backup_alarm")).map((event) => event.code);
  for (const code of ["archive_lagging", "repository_unreachable"])
    t.ok(codes.includes(code), `event: ${code}`);
  t.ok((await eventsOf(cluster, "backup_alarm_over")).length >= 2, "and that it is over");
}

/** A dropped segment that the leader doesn't have any more. */
async function lost(t: Test, cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  await archiveNow(cluster);
  const backups = (await waitForBackups(cluster, "a picture", (picture) => picture)).count;
  const back = away(cluster);
  const [first = ""] = await write(cluster, leader, limitSegments + 4);
  const wal = path.join(paths.node(cluster.dir, leader), "data/pg_wal");
  await pushUntil(
    cluster,
    leader,
    `${first} to be dropped`,
    () => !readdirSync(path.join(wal, "archive_status")).includes(`${first}.ready`),
  );
  const between = new Date().toISOString();
  rmSync(path.join(wal, first));
  back();
  const gap = await waitForBackups(cluster, "the gap", ({ alarms }) =>
    alarms.find(({ code }) => code === "archive_gap"),
  );
  t.match(gap.message, new RegExp(first), "the alarm names the segment");
  await waitForBackups(
    cluster,
    "a new backup and no gap",
    ({ count, alarms, archive }) => count > backups && alarms.length === 0 && archive?.gap === null,
  );
  const [event] = (await eventsOf(cluster, "backup")).slice(-1);
  t.match(event, { ok: true, reason: /gap/ }, "the backup was made by itself, because of the gap");
  const latest = await quorate("restore", "latest", "--dry-run", "--dir", cluster.dir);
  t.equal(latest.code, 0, "a restore to the end works again");
  const within = await quorate("restore", "--to-time", between, "--dry-run", "--dir", cluster.dir);
  t.equal(within.code, 1, "one into the gap is refused");
  t.match(within.stderr, new RegExp(`the archive lacks ${first}.*choose a target before the gap`));
}
