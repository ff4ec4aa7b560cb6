// Whose turn it is, on real processes: one node makes a backup, dies at it, and another one takes over. And what a dead
// leader left out of the archive, its successor makes up for.
import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { isAlive, killTree, poll, sendSignal } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import type { ClusterPicture } from "@quorate/orchestrator/view.ts";
import { type Test, test } from "tap";
import {
  always,
  eventsOf,
  prepareBackupCluster,
  reportsOf,
  restored,
  start,
  switchWal,
  waitForBackups,
} from "./lib/backup-cluster.ts";
import type { TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";

/** Longer than a loaded machine needs until everybody has seen who is at it. */
const takeoverSeconds = 8;

/**
 * pgBackRest that makes the first, full backup when there is a file "begin", and shows it an hour older than it is while
 * there is no other, so that the next one is due at once. While there is a file "hold", that one stands still half a
 * second after its beginning, its lock in its hands. While there is a file "nothing", nothing is archived.
 */
function holdable(dir: string, pgbackrest: string): string {
  const script = path.join(dir, "pgbackrest");
  const [begin, hold, held, nothing] = ["begin", "hold", "held", "nothing"].map((name) =>
    path.join(dir, name),
  );
  const older = 's/("start":)([0-9]{10})/$1.($2-3600)/ge if 1 == (() = /"label":/g)';
  const text = [
    "#!/bin/sh",
    'case " $* " in',
    `  *" --type=full "*" backup "*) while [ ! -e ${begin} ]; do sleep 0.1; done ;;`,
    `  *" backup "*) [ ! -e ${hold} ] || { echo $$ > ${held}; (sleep 0.5; kill -STOP $$) > /dev/null 2>&1 & } ;;`,
    `  *" archive-push "*) [ ! -e ${nothing} ] || exit 1 ;;`,
    `  *" info "*) ${pgbackrest} "$@" | perl -0777 -pe '${older}'; exit ;;`,
    "esac",
    `exec ${pgbackrest} "$@"`,
    "",
  ];
  writeFileSync(script, text.join("\n"));
  chmodSync(script, 0o755);
  chmodSync(dir, 0o777); // Postgres's owner writes the file "held"
  return script;
}

test("the node that makes a backup dies, another takes over; a dead leader's segments are archived", async (t) => {
  const cluster = await prepareBackupCluster(t, {
    backup: (usual, dir) => ({
      ...usual,
      pgbackrest: holdable(dir, usual.pgbackrest),
      schedule: { ...usual.schedule, incr: "0 * * * *" },
      takeoverSeconds,
    }),
  });
  await start(cluster);
  await cluster.waitUntilWhole();
  for (const file of ["hold", "begin"]) writeFileSync(path.join(cluster.dir, file), "");
  await waitForBackups(cluster, "the first backup", ({ last }) => last !== null);
  await takeover(t, cluster);
  await leftOut(t, cluster);
});

const busyNodes = async (cluster: TestCluster): Promise<string[]> =>
  [...(await reportsOf(cluster))].flatMap(([id, { running }]) => (running === null ? [] : [id]));

async function takeover(t: Test, cluster: TestCluster): Promise<void> {
  const [hold, held] = [path.join(cluster.dir, "hold"), path.join(cluster.dir, "held")];
  const busy = await poll(async () => (existsSync(held) ? (await busyNodes(cluster))[0] : undefined), {
    what: "a backup that stands still",
    timeoutMs: 90_000,
  });
  const pid = Number(readFileSync(held, "utf8"));
  t.not(busy, await cluster.leader(), "it is made by a follower");
  const alone = async () => (await busyNodes(cluster)).every((id) => id === busy);
  t.ok(await always(alone, 2.5 * takeoverSeconds * 1000), "and by nobody else, however long it takes");
  const before = (await waitForBackups(cluster, "a picture", (picture) => picture)).count;
  rmSync(hold);
  const sidecar = cluster.sidecarPid(busy);
  sendSignal(sidecar, "SIGSTOP");
  try {
    killTree(pid);
    cluster.killPostgres(busy);
    const diedAtMs = Date.now();
    const event = await poll(
      async () =>
        (await eventsOf(cluster, "backup")).find(
          ({ by, ok, at }) => by !== busy && ok && Date.parse(at) > diedAtMs,
        ),
      { what: "a backup by another node", timeoutMs: 120_000, intervalMs: 1000 },
    );
    t.ok(event, `${event.by} took over ${(Date.parse(event.at) - diedAtMs) / 1000} s after ${busy} died`);
    const { count } = await waitForBackups(cluster, "the backup", ({ count }) => count > before && { count });
    t.ok(count > before, "it is in the repository");
  } finally {
    sendSignal(sidecar, "SIGCONT");
  }
  t.ok(isAlive(sidecar), "its sidecar lives on");
  const failed = await poll(
    async () => (await eventsOf(cluster, "backup")).find(({ by, ok }) => by === busy && !ok),
    { what: "the failure to be told by the node that is back", timeoutMs: 60_000, intervalMs: 1000 },
  );
  t.equal(failed.kind, "backup", "its failure is told");
  await cluster.waitUntilWhole(90_000);
  await waitForBackups(cluster, "no alarm: another node made it", ({ alarms }) => alarms.length === 0);
}

/** On a loaded machine the dead one may be back before anybody has been elected, and lead again. */
async function killUntilAnotherLeads(cluster: TestCluster, dead: string): Promise<string> {
  for (let i = 0; i < 10; i++) {
    const { term } = await cluster.picture();
    cluster.killPostgres(dead);
    const like = (picture: ClusterPicture): boolean => picture.leader !== null && picture.term > term;
    const limits = { timeoutMs: 60_000, intervalMs: 50 };
    const { leader } = await cluster.waitForPicture("the next leader", like, limits);
    if (leader !== null && leader !== dead) return leader;
  }
  throw new Error(`${dead} was killed ten times and leads again`);
}

/** A leader whose archiver achieves nothing for a while, and that dies then. */
async function leftOut(t: Test, cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  await withClient(cluster.url(leader), (client) => client.query("create table left_out (n int)"));
  writeFileSync(path.join(cluster.dir, "nothing"), "");
  for (let i = 1; i <= 3; i++) {
    await withClient(cluster.url(leader), (client) => client.query("insert into left_out values ($1)", [i]));
    await switchWal(cluster, leader);
  }
  const status = path.join(paths.node(cluster.dir, leader), "data/pg_wal/archive_status");
  const last = await switchWal(cluster, leader);
  t.ok(existsSync(path.join(status, `${last}.ready`)), "the dead leader's segments wait");
  const next = await killUntilAnotherLeads(cluster, leader);
  rmSync(path.join(cluster.dir, "nothing"));
  await poll(
    async () => /segments that nobody archived are archived now/.test(cluster.log(next, "sidecar")),
    { what: "the new leader to find them", timeoutMs: 60_000 },
  );
  const all = await restored(t, cluster, ["latest"]);
  const rows = await withClient(all.url(await all.leader()), async (client) =>
    (await client.query<{ n: number }>("select n from left_out order by n")).rows.map(({ n }) => n),
  );
  t.same(rows, [1, 2, 3], "a restore has what only those segments hold");
}
