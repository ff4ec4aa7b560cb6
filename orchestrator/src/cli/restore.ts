// quorate restore: a new cluster from the backups of another one. The original is only read.
import { randomInt } from "node:crypto";
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { messageOf, poll, run, syncDirectory } from "@quorate/common";
import type { ReplayClient, ReplayTarget } from "@quorate/sidecar/backup/archive-replay.ts";
import { formatBytes } from "@quorate/sidecar/backup/backup-report.ts";
import { checkContents } from "@quorate/sidecar/backup/backup-work.ts";
import { localQuery } from "@quorate/sidecar/backup/local-sql.ts";
import { lookForRestore, type RestoreSource, restoreData } from "@quorate/sidecar/backup/restore-data.ts";
import { parseTime } from "@quorate/sidecar/backup/restore-plan.ts";
import { lsnOf } from "@quorate/sidecar/backup/wal-archive.ts";
import { scramVerifier } from "@quorate/sidecar/scram.ts";
import { type BackupSource, withBackupSource } from "../cluster/backup-source.ts";
import {
  checkReachable,
  localBackup,
  type OpenCluster,
  openCluster,
  openDirToPostgres,
  paths,
  writeCluster,
} from "../cluster/files.ts";
import { giveNewIdentity, writeFirstPromise } from "../cluster/new-identity.ts";
import { allPorts, planCluster } from "../cluster/plan.ts";
import { isPortFree } from "../cluster/processes.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { takePicture } from "./sightings.ts";

export interface RestoreRequest {
  readonly dir: string;
  readonly into?: string;
  readonly toTime?: string;
  readonly toLsn?: string;
  readonly toName?: string;
  /** This backup and no other. */
  readonly set?: string;
  readonly nodes?: number;
  readonly basePort?: number;
  readonly name?: string;
  readonly check?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const archiveWaitMs = 30_000;
const portDistance = 100;

function bad(message: string): Error {
  return orchestratorErrors.error("bad_option", message);
}

/** Pure. */
export function targetOf(word: string | undefined, request: RestoreRequest): ReplayTarget {
  const { toTime, toLsn, toName } = request;
  const given = [word, toTime, toLsn, toName].filter((each) => each !== undefined);
  if (given.length !== 1)
    throw bad(
      'say to where: one of "latest", --to-time, --to-lsn and --to-name, like: quorate restore latest --into DIR',
    );
  if (word !== undefined && word !== "latest")
    throw bad(`"${word}" is no target: write "latest", or use --to-time, --to-lsn or --to-name`);
  if (toTime !== undefined) {
    const ms = parseTime(toTime);
    if (ms === undefined)
      throw bad(`--to-time ${toTime}: write it like "2026-11-21 13:05:31" (UTC) or "2026-11-21 13:05:31+02"`);
    return { kind: "time", time: new Date(ms).toISOString().replace("T", " ").replace("Z", "+00") };
  }
  if (toLsn !== undefined) {
    try {
      lsnOf(toLsn);
    } catch {
      throw bad(`--to-lsn ${toLsn}: write it like 0/16B3740`);
    }
    return { kind: "lsn", lsn: toLsn };
  }
  if (toName !== undefined) return { kind: "name", name: toName };
  return { kind: "latest" };
}

function describe(target: ReplayTarget): string {
  switch (target.kind) {
    case "standby":
    case "latest":
      return "the end of the archive";
    case "time":
      return `the moment ${target.time}`;
    case "lsn":
      return `position ${target.lsn}`;
    case "name":
      return `restore point "${target.name}"`;
  }
}

export async function restore(word: string | undefined, request: RestoreRequest): Promise<void> {
  const target = targetOf(word, request);
  const original = openCluster(request.dir);
  const say = request.json === true ? () => undefined : (line: string) => console.log(line);
  if (request.dryRun !== true) await checkInto(original, request);
  await withBackupSource(original, async (source) => {
    if (request.dryRun !== true) await archiveNow(original, say);
    const found = await lookForRestore(source.pgbackrest, target, request.set);
    showPlan(found, request, say);
    if (request.dryRun === true) return;
    const made = await restoreInto(original, source, found, request, say);
    if (request.json === true) console.log(JSON.stringify(made, undefined, 2));
  });
}

async function checkInto(original: OpenCluster, request: RestoreRequest): Promise<void> {
  const { into } = request;
  if (into === undefined) throw bad("say where the new cluster shall live: --into DIR");
  const dir = path.resolve(into);
  if (existsSync(dir) && readdirSync(dir).length > 0)
    throw orchestratorErrors.error(
      "directory_in_use",
      `${dir} is not empty: a restore makes a new cluster, choose an empty or new directory with --into`,
    );
  checkReachable(dir);
  for (const { port, purpose } of allPorts(newPlan(original, request))) {
    if (await isPortFree("127.0.0.1", port)) continue;
    throw orchestratorErrors.error(
      "port_taken",
      `port ${port} (${purpose}) is taken by another program: choose other ports with --base-port`,
    );
  }
}

function newPlan(original: OpenCluster, request: RestoreRequest) {
  const { file } = original;
  const oldBase = (file.nodes[0]?.ports.postgres ?? 5501) - 1;
  const plan = planCluster({
    cluster: request.name ?? `${file.cluster}-restored`,
    binDir: file.binDir,
    nodes: request.nodes ?? file.nodes.length,
    zones: [...new Set(file.nodes.map(({ zone }) => zone))],
    policy: file.policy,
    basePort: request.basePort ?? oldBase + portDistance,
    gateway: file.gateways.length > 0,
  });
  return { ...plan, app: { ...plan.app, user: file.app.user, database: file.app.database } };
}

/** If the original runs, its last WAL is archived first, so that "latest" is what it says. */
async function archiveNow(original: OpenCluster, say: (line: string) => void): Promise<void> {
  const picture = await takePicture(original);
  const leader = original.file.nodes.find(({ id }) => id === picture.leader);
  if (leader === undefined) return;
  const postgres = {
    dataDirectory: path.join(paths.node(original.dir, leader.id), "data"),
    socketDirectory: path.join(paths.node(original.dir, leader.id), "run"),
    port: leader.ports.postgres,
  };
  try {
    const [row] = await localQuery(
      postgres,
      // A switch right behind another one does nothing and names a segment that is never complete.
      "select pg_walfile_name(pg_create_restore_point('quorate restore')) as file, pg_switch_wal()",
    );
    const file = String(row?.["file"]);
    await poll(
      async () => {
        const [stat] = await localQuery(postgres, "select last_archived_wal as wal from pg_stat_archiver");
        // Null until a new leader has archived anything.
        return String(stat?.["wal"] ?? "") >= file || undefined;
      },
      { what: `${file} to be archived`, timeoutMs: archiveWaitMs, intervalMs: 200 },
    );
  } catch (error) {
    say(
      `the running cluster could not archive its last WAL (${messageOf(error)}): the archive is used as it is`,
    );
  }
}

function showPlan({ plan }: RestoreSource, request: RestoreRequest, say: (line: string) => void): void {
  const { backup } = plan;
  if (request.json === true && request.dryRun === true)
    console.log(
      JSON.stringify(
        {
          backup: backup.label,
          type: backup.type,
          databaseBytes: backup.databaseBytes,
          timeline: plan.timeline,
          firstSegment: plan.firstSegment,
          lastSegment: plan.lastSegment,
          segments: plan.segments,
          archivedUntil: new Date(plan.archivedUntilMs).toISOString(),
          target: plan.target,
          into: request.into ?? null,
        },
        undefined,
        2,
      ),
    );
  say(
    `backup ${backup.label} (${backup.type}, ${formatBytes(backup.databaseBytes)}) of ${new Date(backup.stoppedAtMs).toISOString()}`,
  );
  say(
    `WAL ${plan.firstSegment} … ${plan.lastSegment} (${plan.segments} segments), timeline ${plan.timeline}`,
  );
  say(
    `to ${describe(plan.target)}; the archive reaches until ${new Date(plan.archivedUntilMs).toISOString()}`,
  );
}

export interface RestoredCluster {
  readonly cluster: string;
  readonly dir: string;
  readonly systemIdentifier: string;
  readonly timeline: number;
  readonly backup: string;
}

async function restoreInto(
  original: OpenCluster,
  source: BackupSource,
  found: RestoreSource,
  request: RestoreRequest,
  say: (line: string) => void,
): Promise<RestoredCluster> {
  const dir = path.resolve(request.into ?? "");
  const fresh = !existsSync(dir);
  const { config, owner } = source;
  try {
    const plan = newPlan(original, request);
    const made = writeCluster(dir, plan, config.postgres.settings, localBackup(config.backup.pgbackrest));
    openDirToPostgres(dir);
    const first = plan.nodes[0]?.id ?? "n1";
    const node = paths.node(dir, first);
    const data = path.join(node, "data");
    const unfinished = `${data}.new`;
    if (owner !== undefined) chownSync(node, owner.uid, owner.gid);
    let shown = 0;
    await restoreData({
      pgbackrest: source.pgbackrest,
      config: config.backup,
      stanza: source.stanza,
      conf: source.paths.conf,
      binDir: config.postgres.binDir,
      osUser: config.postgres.osUser,
      owner,
      source: found,
      data: unfinished,
      tablespaces: path.join(node, "tablespaces"),
      logFile: path.join(node, "log/restore.log"),
      signal: new AbortController().signal,
      onProgress: (progress) => {
        if (progress.kind !== "files" || Date.now() - shown < 1000) return;
        shown = Date.now();
        say(`restored ${formatBytes(progress.doneBytes)} of ${formatBytes(progress.totalBytes)}`);
      },
      work: async (client) => {
        await becomeOther(client, made);
        if (request.check === true) {
          await checkContents(config.postgres.binDir, client, owner, new AbortController().signal);
          say("amcheck finds nothing");
        }
      },
    });
    const identity = await giveNewIdentity({
      data: unfinished,
      binDir: config.postgres.binDir,
      owner,
      nowMs: Date.now(),
      random: randomInt(4096),
    });
    const state = path.join(node, "state");
    mkdirSync(state, { recursive: true, mode: 0o700 });
    await writeFirstPromise(state, identity.timeline);
    const sync = ["--sync-only", "--sync-method=syncfs", `--pgdata=${unfinished}`];
    await run(path.join(config.postgres.binDir, "initdb"), sync, {
      cwd: "/",
      ...(owner === undefined ? {} : { user: owner }),
    });
    renameSync(unfinished, data);
    await syncDirectory(node);
    say("");
    say(
      `The new cluster ${plan.cluster} (system identifier ${identity.systemIdentifier}) is ready. Start it with`,
    );
    say(`  quorate up --dir ${dir}`);
    const { label } = found.plan.backup;
    return { cluster: plan.cluster, dir, backup: label, ...identity };
  } catch (error) {
    if (process.env["QUORATE_KEEP"] === undefined) {
      if (fresh) rmSync(dir, { recursive: true, force: true });
      else
        for (const name of readdirSync(dir)) rmSync(path.join(dir, name), { recursive: true, force: true });
    }
    throw error;
  }
}

/** Passwords of the new cluster's secrets; and nothing that would reach out to others by itself. */
async function becomeOther(client: ReplayClient, cluster: OpenCluster): Promise<void> {
  const secret = (name: string): string =>
    scramVerifier(readFileSync(path.join(paths.secrets(cluster.dir), name), "utf8").trimEnd());
  const { app } = cluster.file;
  const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
  await client.query(`alter role quorate_replication password '${secret("replication.password")}'`);
  await client.query(`alter role quorate_monitor password '${secret("monitor.password")}'`);
  if (cluster.file.gateways.length > 0)
    await client.query(`alter role quorate_gateway password '${secret("gateway.password")}'`);
  await client.query(`alter role ${quoted(app.user)} password '${secret("app.password")}'`);
  const subscriptions = await client.query(
    "select d.datname, s.subname from pg_subscription s join pg_database d on d.oid = s.subdbid where s.subenabled",
  );
  for (const { datname, subname } of subscriptions)
    await client.query(`alter subscription ${quoted(String(subname))} disable`, String(datname));
}
