// Clusters whose backups are configured otherwise than `quorate up` does it, and what tests of backups look for.
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { poll } from "@quorate/common";
import { localBackup, openDirToPostgres, paths, writeCluster } from "@quorate/orchestrator/cluster/files.ts";
import { planCluster } from "@quorate/orchestrator/cluster/plan.ts";
import type { AuditEvent } from "@quorate/orchestrator/events.ts";
import type { BackupPicture } from "@quorate/sidecar/backup/backup-report.ts";
import type { SidecarConfigInput } from "@quorate/sidecar/config.ts";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { ensurePgbackrest } from "../../scripts/pgbackrest.ts";
import { quorate, type Teardown, TestCluster } from "./cluster.ts";

export type BackupSection = NonNullable<SidecarConfigInput["backup"]>;

export interface BackupClusterOptions {
  /** The default: all nodes on 127.0.0.1. */
  readonly hosts?: readonly string[];
  readonly settings?: Readonly<Record<string, string>>;
  readonly backup: (usual: BackupSection, dir: string) => BackupSection;
}

/** Three nodes; only the files, nothing runs yet: `quorate up --dir` starts them. */
export async function prepareBackupCluster(t: Teardown, options: BackupClusterOptions): Promise<TestCluster> {
  const cluster = await TestCluster.prepare(t);
  const { bin } = await ensurePostgres();
  const planned = planCluster({ cluster: "main", binDir: bin, nodes: 3, basePort: cluster.basePort });
  const { hosts } = options;
  const nodes = planned.nodes.map((node, i) => ({ ...node, host: hosts?.[i] ?? node.host }));
  const usual = localBackup((await ensurePgbackrest()).command);
  writeCluster(cluster.dir, { ...planned, nodes }, options.settings, options.backup(usual, cluster.dir));
  openDirToPostgres(cluster.dir);
  return cluster;
}

export async function start(cluster: TestCluster): Promise<void> {
  const run = await quorate("up", "--dir", cluster.dir, "--detach");
  if (run.code !== 0) throw new Error(`${run.stdout}\n${run.stderr}\n${await cluster.story()}`);
}

/** Waits until what all nodes say together about backups is as wished. */
export async function waitForBackups<T>(
  cluster: TestCluster,
  what: string,
  like: (picture: BackupPicture) => T | undefined | false,
  timeoutMs = 90_000,
): Promise<T> {
  return poll(
    async () => {
      const { backup } = await cluster.picture();
      return (backup !== null && like(backup)) || undefined;
    },
    { what, timeoutMs, intervalMs: 200 },
  );
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
