// quorate backup list | now | verify
import path from "node:path";
import { connectSidecar } from "@quorate/proto";
import type { BackupType } from "@quorate/sidecar/backup/backup-config.ts";
import { formatBytes } from "@quorate/sidecar/backup/backup-report.ts";
import { type BackupWork, type Outcome, runBackup, runVerify } from "@quorate/sidecar/backup/backup-work.ts";
import { type LocalServer, localQuery } from "@quorate/sidecar/backup/local-sql.ts";
import { BackupError } from "@quorate/sidecar/backup/pgbackrest.ts";
import type { RemotePostgres } from "@quorate/sidecar/backup/pgbackrest-conf.ts";
import { placeOf } from "@quorate/sidecar/backup/seen-nodes.ts";
import { nodePaths } from "@quorate/sidecar/paths.ts";
import { type BackupSource, backupConfigOf, withBackupSource } from "../cluster/backup-source.ts";
import { findNode, type OpenCluster, openCluster, paths } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { AuditTrail } from "../events.ts";
import { grpcAddress, takeLivePicture, takeSightings } from "./sightings.ts";

const checkpointTimeoutMs = 600_000;

export interface JsonOption {
  readonly json?: boolean;
}

export async function backupList(dir: string, { json }: JsonOption): Promise<void> {
  await withBackupSource(openCluster(dir), async ({ pgbackrest }) => {
    const info = await pgbackrest.info();
    const backups = info.kind === "ok" ? info.backups : [];
    if (json === true) {
      console.log(JSON.stringify(backups, undefined, 2));
      return;
    }
    if (backups.length === 0) console.log("no backup yet");
    for (const { label, type, stoppedAtMs, databaseBytes, repositoryBytes, lsnStop, damaged } of backups)
      console.log(
        `${label.padEnd(34)} ${type.padEnd(4)} ${new Date(stoppedAtMs).toISOString().slice(0, 19)}Z ` +
          `${formatBytes(databaseBytes).padStart(8)} ${formatBytes(repositoryBytes).padStart(8)} ${lsnStop}` +
          (damaged ? " DAMAGED PAGES" : ""),
      );
  });
}

function workOf(source: BackupSource): BackupWork {
  return {
    pgbackrest: source.pgbackrest,
    config: source.config,
    stanza: source.stanza,
    paths: source.paths,
    nodePaths: nodePaths(source.config.dir),
    owner: source.owner,
    signal: new AbortController().signal,
    onPercent: () => undefined,
  };
}

/** Into the audit trail of every node in reach: an operator's backup counts like one of the schedule. */
async function tell(
  cluster: OpenCluster,
  row: "backup" | "verify",
  work: () => Promise<Outcome>,
): Promise<Outcome> {
  const startedMs = performance.now();
  const outcome = await work();
  const clients = new Map(cluster.file.nodes.map((node) => [node.id, connectSidecar(grpcAddress(node))]));
  const trail = new AuditTrail({
    by: "operator",
    coordinator: `backup-${process.pid}-${Date.now().toString(36)}`,
    nodes: () => [...clients.keys()],
    client: (id) => clients.get(id),
  });
  const { run, problem } = outcome;
  await trail.record({
    kind: "backup",
    row,
    reason: "an operator asked for it",
    outcome: run.message,
    ok: run.ok,
    durationMs: Math.round(performance.now() - startedMs),
    ...(problem === null ? {} : { code: problem.code }),
  });
  for (const client of clients.values()) client.close();
  return outcome;
}

function report({ run, problem }: Outcome, json: boolean): void {
  if (problem !== null) throw new BackupError(problem, run.what);
  console.log(json ? JSON.stringify(run, undefined, 2) : run.message);
}

export async function backupVerify(dir: string, { json }: JsonOption): Promise<void> {
  const cluster = openCluster(dir);
  await withBackupSource(cluster, async (source) =>
    report(await tell(cluster, "verify", () => runVerify(workOf(source))), json === true),
  );
}

/** Taken from a follower that streams, else from the leader; by the node that has the repository, if only one has. */
export async function backupNow(
  dir: string,
  options: JsonOption & { readonly type?: BackupType },
): Promise<void> {
  const cluster = openCluster(dir);
  const { leader, nodes, term } = await takeLivePicture(cluster);
  if (leader === null)
    throw orchestratorErrors.error(
      "no_leader",
      'a backup needs a leader: see "quorate status" for the reason',
    );
  const { backup, host, node } = backupConfigOf(cluster);
  const exclusive = backup.repository.type === "posix" && backup.repository.host !== undefined;
  const follower = nodes.find(({ id, streaming }) => id !== leader && streaming)?.id;
  const from = exclusive ? node.id : (follower ?? leader);
  const other = from === leader ? (exclusive ? follower : undefined) : leader;
  const reach = { host, tls: backup.tls !== undefined };
  await nameTimeline(localServer(cluster, leader), term);
  await withBackupSource(reordered(cluster, from), async (source) => {
    const place = other === undefined ? "self" : await placeIn(cluster, other, reach);
    const type = options.type ?? "incr";
    const due = { type, sinceMs: 0, reason: `an operator asked for it, from ${from}` };
    const outcome = await tell(cluster, "backup", () => runBackup(workOf(source), due, place));
    report(outcome, options.json === true);
  });
}

/** Until its first checkpoint a new leader's pg_control names its former timeline, and pgBackRest refuses. */
async function nameTimeline(leader: LocalServer, term: number): Promise<void> {
  const [row] = await localQuery(leader, "select timeline_id from pg_control_checkpoint()");
  if (Number(row?.["timeline_id"]) !== term)
    await localQuery(leader, "checkpoint", { statementTimeoutMs: checkpointTimeoutMs });
}

/** The same cluster with this node first. */
function reordered(cluster: OpenCluster, first: string): OpenCluster {
  const nodes = [...cluster.file.nodes].sort((a, b) => Number(b.id === first) - Number(a.id === first));
  return { ...cluster, file: { ...cluster.file, nodes } };
}

function localServer(cluster: OpenCluster, id: string): LocalServer {
  return {
    socketDirectory: path.join(paths.node(cluster.dir, id), "run"),
    port: findNode(cluster, id).ports.postgres,
  };
}

async function placeIn(
  cluster: OpenCluster,
  id: string,
  reach: { readonly host: string; readonly tls: boolean },
): Promise<RemotePostgres> {
  const sighting = (await takeSightings(cluster)).find((each) => each.id === id);
  const place = sighting?.status === undefined ? null : placeOf(sighting.status, reach);
  if (place !== null) return place;
  throw orchestratorErrors.error(
    "no_backups",
    `the data of ${id} can't be reached: its sidecar doesn't answer or makes no backups, or it is on another machine ` +
      "and has no backup.tls (docs/backup.md)",
  );
}
