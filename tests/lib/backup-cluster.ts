// Clusters whose backups are configured otherwise than `quorate up` does it, and what tests of backups look for.
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { freePortRange, guardedGet, poll, SecretFile } from "@quorate/common";
import { takeSightings } from "@quorate/orchestrator/cli/sightings.ts";
import {
  accessOf,
  localBackup,
  openDirToPostgres,
  paths,
  writeCluster,
} from "@quorate/orchestrator/cluster/files.ts";
import { planCluster } from "@quorate/orchestrator/cluster/plan.ts";
import type { AuditEvent } from "@quorate/orchestrator/events.ts";
import {
  type BackupPicture,
  type BackupReport,
  formatBackupPicture,
  readReport,
} from "@quorate/sidecar/backup/backup-report.ts";
import type { SidecarConfigInput } from "@quorate/sidecar/config.ts";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { ensurePgbackrest } from "../../scripts/pgbackrest.ts";
import { quorate, TestCluster } from "./cluster.ts";
import { withClient } from "./contents.ts";
import { type Teardown, tellIfFailed } from "./told.ts";

export type BackupSection = NonNullable<SidecarConfigInput["backup"]>;

export interface BackupClusterOptions {
  /** The default: all nodes on 127.0.0.1. */
  readonly hosts?: readonly string[];
  readonly settings?: Readonly<Record<string, string>>;
  readonly backup: (usual: BackupSection, dir: string) => BackupSection;
}

const calmMs = 20_000;
/** A test that runs at one in the morning is to see the same as any other. */
const nothingScheduled = {
  schedule: { full: "0 0 29 2 *", diff: null, incr: null },
  restoreTest: null,
  verify: null,
} as const;

/** Three nodes; only the files, nothing runs yet: `quorate up --dir` starts them. */
export async function prepareBackupCluster(t: Teardown, options: BackupClusterOptions): Promise<TestCluster> {
  const cluster = await TestCluster.prepare(t);
  const { bin } = await ensurePostgres();
  const planned = planCluster({ cluster: "main", binDir: bin, nodes: 3, basePort: cluster.basePort });
  const { hosts } = options;
  const nodes = planned.nodes.map((node, i) => {
    const { pooler: _, poolerRead: __, ...ports } = node.ports; // nobody would use them
    return { ...node, host: hosts?.[i] ?? node.host, ports };
  });
  const usual = { ...localBackup((await ensurePgbackrest()).command), ...nothingScheduled };
  writeCluster(cluster.dir, { ...planned, nodes }, options.settings, options.backup(usual, cluster.dir));
  openDirToPostgres(cluster.dir);
  // On a loaded machine silence is no sign of a dead leader; these tests are about other things.
  for (const { id } of planned.orchestrators) {
    const file = paths.orchestratorConfig(cluster.dir, id);
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), silentMs: calmMs }));
  }
  return cluster;
}

export async function start(cluster: TestCluster): Promise<void> {
  const run = await quorate("up", "--dir", cluster.dir, "--detach");
  if (run.code !== 0) throw new Error(`${run.stdout}\n${run.stderr}`);
}

/** Waits until what all nodes say together about backups is as wished. */
export async function waitForBackups<T>(
  cluster: TestCluster,
  what: string,
  like: (picture: BackupPicture) => T | undefined | false,
  timeoutMs = 90_000,
): Promise<T> {
  let last: BackupPicture | null = null;
  return poll(
    async () => {
      last = (await cluster.picture()).backup;
      return last !== null && like(last);
    },
    { what, timeoutMs, intervalMs: 200, seen: () => seenBackups(last) },
  );
}

function seenBackups(picture: BackupPicture | null): string {
  if (picture === null) return "no node with backups";
  return `${picture.count} backups\n${formatBackupPicture(picture, Date.now()).join("\n")}`;
}

export async function eventsOf(cluster: TestCluster, row: string): Promise<AuditEvent[]> {
  const run = await quorate("events", "--dir", cluster.dir, "--json", "--lines", "1000");
  if (run.code !== 0) throw new Error(run.stderr);
  return (JSON.parse(run.stdout) as AuditEvent[]).filter((event) => event.row === row);
}

export function changeSidecarConfig(
  cluster: TestCluster,
  id: string,
  change: (config: SidecarConfigInput) => SidecarConfigInput,
): void {
  const file = paths.sidecarConfig(cluster.dir, id);
  writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")) as SidecarConfigInput)));
}

/** For a while: whether it is so at each look. */
export async function always(check: () => Promise<boolean>, forMs: number, everyMs = 300): Promise<boolean> {
  const untilMs = performance.now() + forMs;
  while (performance.now() < untilMs) {
    if (!(await check())) return false;
    await delay(everyMs);
  }
  return true;
}

/** What each node that answers says itself. */
export async function reportsOf(cluster: TestCluster): Promise<Map<string, BackupReport>> {
  const reports = (await takeSightings(cluster.open)).flatMap(({ id, status }) => {
    const report = readReport(status?.backup);
    return report === null ? [] : [[id, report] as const];
  });
  return new Map(reports);
}

/** Ends the leader's segment and returns its name. */
export async function switchWal(cluster: TestCluster, leader: string): Promise<string> {
  return withClient(cluster.superuser(leader, "postgres"), async (client) => {
    await client.query("select pg_create_restore_point('switch')");
    const { rows } = await client.query<{ wal: string }>("select pg_walfile_name(pg_switch_wal()) as wal");
    return rows[0]?.wal ?? "";
  });
}

/** Waits until the leader's archiver has pushed all that was committed before. */
export async function archiveNow(cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  const wal = await switchWal(cluster, leader);
  await withClient(cluster.superuser(leader, "postgres"), (client) =>
    poll(
      async () => {
        const sql = "select last_archived_wal >= $1 as done from pg_stat_archiver";
        return (await client.query<{ done: boolean }>(sql, [wal])).rows[0]?.done || undefined;
      },
      { what: `${wal} to be archived`, timeoutMs: 60_000 },
    ),
  );
}

/** A new cluster of one node from the backups of another, not started yet; stopped and removed afterwards. */
export async function restoreCluster(
  t: Teardown,
  cluster: TestCluster,
  target: readonly string[],
): Promise<TestCluster> {
  const parent = mkdtempSync(path.join(tmpdir(), "quorate-restored-"));
  chmodSync(parent, 0o755);
  const dir = path.join(parent, "c");
  t.teardown(async () => {
    await tellIfFailed(
      t,
      async () => (await quorate("logs", "--dir", dir, "--postgres", "--lines", "100")).stdout,
    );
    if (existsSync(paths.clusterFile(dir))) await quorate("down", "--dir", dir);
    if (process.env["QUORATE_KEEP"] === undefined) rmSync(parent, { recursive: true, force: true });
  });
  const basePort = await freePortRange();
  const place = ["--into", dir, "--nodes", "1", "--base-port", String(basePort)];
  const run = await quorate("restore", ...target, "--dir", cluster.dir, ...place);
  if (run.code !== 0 || run.stderr !== "") throw new Error(`restore ${target.join(" ")}: ${run.stderr}`);
  return TestCluster.at(dir, basePort);
}

export async function restored(
  t: Teardown,
  cluster: TestCluster,
  target: readonly string[],
): Promise<TestCluster> {
  const other = await restoreCluster(t, cluster, target);
  await start(other);
  return other;
}

/** A node that dies and comes back with an empty disk. */
export async function loseDisk(cluster: TestCluster, id: string): Promise<void> {
  cluster.killSidecar(id);
  cluster.killPostgres(id);
  rmSync(path.join(paths.node(cluster.dir, id), "data"), { recursive: true, force: true });
  await poll(async () => (await cluster.pictureOf(id)).postgres === "cloning" || undefined, {
    what: `${id} to notice that its data is gone`,
    timeoutMs: 120_000,
  });
}

/** As Prometheus gets it, with the cluster's token. */
export async function metricsOf(cluster: TestCluster, id: string): Promise<string> {
  const { tls, tokenFile } = accessOf(cluster.open);
  const token = tokenFile === undefined ? undefined : new SecretFile(tokenFile).value;
  const { host, ports } = cluster.node(id);
  const asked = { host, port: ports.http, path: "/metrics", serverName: id, tls, token, timeoutMs: 5_000 };
  return (await guardedGet(asked)).body;
}
