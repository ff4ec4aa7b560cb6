/**
 * Backups of one node: prepares pgBackRest, watches the archive while this node leads, makes backups, restore tests
 * and verifications when it is its turn, restores a new node from a backup, and reports all of it.
 *
 * One look at everything every `tickMs`; one piece of work at a time. What to do is decided in backup-schedule.ts and
 * backup-turn.ts.
 */
import { readFile, rm } from "node:fs/promises";
import { type Logger, messageOf, writeDurable } from "@quorate/common";
import type { NodeStatus } from "@quorate/proto";
import type { SidecarConfig } from "../config.ts";
import type { Peer } from "../conninfo.ts";
import { type PostgresOwner, readSecret } from "../environment.ts";
import type { NodePaths } from "../paths.ts";
import { Alarms } from "./alarms.ts";
import {
  type ArchiveState,
  localHistory,
  localQuery,
  missingSegments,
  readArchiveState,
  repairArchive,
} from "./archive-watch.ts";
import type { BackupConfig } from "./backup-config.ts";
import { prepareBackup } from "./backup-environment.ts";
import type { BackupFailure } from "./backup-failures.ts";
import { type BackupReport, readReport } from "./backup-report.ts";
import { type Due, dueBackup, isTaskDue, isTooOld, nextRunMs } from "./backup-schedule.ts";
import { backupTurn, type SeenNode, type Turn } from "./backup-turn.ts";
import { type BackupWork, type Outcome, runBackup, runRestoreTest, runVerify } from "./backup-work.ts";
import { Peers, remoteSystemIdentifier } from "./peers.ts";
import { BackupError, Pgbackrest } from "./pgbackrest.ts";
import { type BackupPaths, backupPaths, type LocalPostgres, type RemotePostgres } from "./pgbackrest-conf.ts";
import type { Backup, RepositoryInfo } from "./repository-info.ts";
import { lookForRestore, restoreData } from "./restore-data.ts";
import { TlsServer } from "./tls-server.ts";
import { defaultSegmentBytes } from "./wal-archive.ts";

export type BackupServiceOptions = {
  readonly config: SidecarConfig & { readonly backup: BackupConfig };
  readonly paths: NodePaths;
  readonly owner: PostgresOwner;
  readonly logger: Logger;
  readonly peers?: Peers;
};

export type CloneProgressHandler = (progress: { doneBytes: number; totalBytes: number }) => void;

const tickMs = 2_000;
const infoIntervalMs = 30_000;
const gapCheckIntervalMs = 600_000;
/** A new leader leaves its predecessor, who may only be cut off, time to end the push that he is at. */
const settleMs = 10_000;
const lagAlarmMs = 300_000;
const retryMs = 10_000;
/** Cleared when the repository could be read. */
const repositoryCodes = [
  "repository_unreachable",
  "wrong_repository_key",
  "version_mismatch",
  "certificate_refused",
];

function archiveCode({ code }: BackupFailure): BackupFailure["code"] {
  return code === "backup_failed" ? "archive_failed" : code;
}

export class BackupService {
  readonly #options: BackupServiceOptions;
  readonly #backup: BackupConfig;
  readonly #stanza: string;
  readonly #paths: BackupPaths;
  readonly #pgbackrest: Pgbackrest;
  readonly #peers: Peers;
  readonly #alarms = new Alarms();
  readonly #server: TlsServer | null;
  readonly #shutdown = new AbortController();
  readonly #startedAtMs = Date.now();
  #status: () => NodeStatus = () => {
    throw new Error("the backup service isn't attached to a node yet");
  };
  #changed: () => void = () => undefined;
  #timer: NodeJS.Timeout | undefined;
  #ticking: Promise<void> = Promise.resolve();
  #info: RepositoryInfo = { kind: "absent" };
  #infoAtMs: number | null = null;
  #seen: readonly NodeStatus[] = [];
  #archive: ArchiveState | null = null;
  #gap: { readonly segment: string; readonly sinceMs: number } | null = null;
  #gapCheckedAtMs = 0;
  #ledTerm = 0;
  #ledSinceMs = 0;
  #dueKey = "";
  #dueSeenAtMs = 0;
  #notBeforeMs = 0;
  #working: BackupReport["running"] = null;
  #work: Promise<void> = Promise.resolve();
  #lastRun: BackupReport["lastRun"] = null;
  #restoreTest: BackupReport["restoreTest"] = null;
  #verify: BackupReport["verify"] = null;

  constructor(options: BackupServiceOptions) {
    this.#options = options;
    const { config, paths } = options;
    this.#backup = config.backup;
    this.#stanza = config.backup.stanza ?? config.cluster;
    this.#paths = backupPaths(paths.root, config.backup);
    this.#pgbackrest = new Pgbackrest({
      config: config.backup,
      stanza: this.#stanza,
      paths: this.#paths,
      owner: options.owner,
    });
    this.#peers = options.peers ?? new Peers();
    this.#server =
      config.backup.tls === undefined
        ? null
        : new TlsServer({
            command: config.backup.pgbackrest,
            conf: this.#paths.conf,
            osUser: config.postgres.osUser,
            cwd: this.#paths.root,
            logger: options.logger,
          });
  }

  /** Directories, configuration, scripts. Throws ConfigError. */
  prepare(): void {
    const { config, owner } = this.#options;
    prepareBackup({
      config,
      paths: this.#paths,
      stanza: this.#stanza,
      postgres: this.#local(),
      owner,
    });
  }

  start(status: () => NodeStatus, changed: () => void): void {
    this.#status = status;
    this.#changed = changed;
    const next = (): void => {
      this.#ticking = this.#tick()
        .catch((error: unknown) => this.#options.logger.warn({ err: error }, "backups: a look around failed"))
        .finally(() => {
          if (!this.#shutdown.signal.aborted) this.#timer = setTimeout(next, tickMs);
        });
    };
    this.#timer = setTimeout(next, 0);
    this.#server?.start();
  }

  async end(): Promise<void> {
    this.#shutdown.abort();
    clearTimeout(this.#timer);
    await this.#ticking;
    await this.#work;
    this.#peers.close();
    await this.#server?.end();
  }

  /** Right after initdb: the first segment that is full finds its place. Failing is no reason not to go on. */
  async dataMade(): Promise<void> {
    await this.#makeStanza().catch((error: unknown) => this.#trouble(error));
  }

  // ---- what others see

  report(): BackupReport {
    const { config } = this.#options;
    const local = this.#local();
    const info = this.#info.kind === "ok" ? this.#info : null;
    const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());
    const shown = (backup: Backup | undefined) =>
      backup === undefined
        ? null
        : {
            label: backup.label,
            type: backup.type,
            stoppedAt: new Date(backup.stoppedAtMs).toISOString(),
            databaseBytes: backup.databaseBytes,
            repositoryBytes: backup.repositoryBytes,
          };
    return {
      place: {
        dataDirectory: local.dataDirectory,
        socketDirectory: local.socketDirectory,
        tlsPort: config.backup.tls?.port ?? null,
      },
      running: this.#working,
      lastRun: this.#lastRun,
      repository:
        info === null || this.#infoAtMs === null
          ? null
          : {
              seenAt: new Date(this.#infoAtMs).toISOString(),
              count: info.backups.length,
              oldest: shown(info.backups[0]),
              newest: shown(info.backups.at(-1)),
            },
      archive:
        this.#archive === null
          ? null
          : {
              lastArchived: this.#archive.lastArchived,
              lastArchivedAt: iso(this.#archive.lastArchivedAtMs),
              waitingSegments: this.#archive.waitingSegments,
              waitingBytes: this.#archive.waitingSegments * defaultSegmentBytes,
              oldestWaitingAt: iso(this.#archive.oldestWaitingAtMs),
              gap: this.#gap?.segment ?? null,
            },
      restoreTest: this.#restoreTest,
      verify: this.#verify,
      alarms: this.#alarms.list(),
    };
  }

  // ---- a new node

  /**
   * Fills `directory` from the newest backup and the archive. False: there is nothing to restore from, or it failed
   * and the caller should copy from another node.
   */
  async restoreNode(
    directory: string,
    systemIdentifier: string | null,
    onProgress: CloneProgressHandler,
    signal: AbortSignal,
  ): Promise<boolean> {
    const { config, paths, owner, logger } = this.#options;
    try {
      const source = await lookForRestore(this.#pgbackrest, { kind: "standby" });
      const { backup } = source.plan;
      if (systemIdentifier === null || backup.systemIdentifier !== systemIdentifier) {
        logger.info("the backup isn't known to be of this cluster: copying from a node instead");
        return false;
      }
      logger.info({ backup: backup.label, segments: source.plan.segments }, "restoring from the backup");
      await restoreData({
        pgbackrest: this.#pgbackrest,
        config: config.backup,
        stanza: this.#stanza,
        conf: this.#paths.conf,
        binDir: config.postgres.binDir,
        osUser: config.postgres.osUser,
        owner,
        source,
        data: directory,
        tablespaces: `${paths.root}/tablespaces`,
        logFile: `${paths.log}/restore.log`,
        signal,
        onProgress: (progress) => {
          if (progress.kind === "files") onProgress(progress);
        },
      });
      return true;
    } catch (error) {
      if (signal.aborted) throw error;
      logger.info({ reason: messageOf(error) }, "no restore from a backup: copying from a node instead");
      return false;
    }
  }

  /** Of the cluster whose node this is to follow; null: it can't be asked. */
  async clusterIdentifier(leader: Peer): Promise<string | null> {
    const { user, passwordFile } = this.#options.config.replication;
    return await remoteSystemIdentifier(leader, user, readSecret(passwordFile, "replication.passwordFile"));
  }

  // ---- the loop

  #local(): LocalPostgres {
    const { config, paths } = this.#options;
    return { dataDirectory: paths.data, socketDirectory: paths.run, port: config.ports.postgres };
  }

  async #tick(): Promise<void> {
    const status = this.#status();
    if (status.postgres !== "running") {
      this.#archive = null;
      return;
    }
    const nowMs = Date.now();
    const leads = status.state === "leader";
    try {
      const fresh = this.#infoAtMs !== null && nowMs - this.#infoAtMs < infoIntervalMs;
      if (!fresh || this.#noBackupYet()) {
        await this.#look(status);
        this.#alarms.clear(...repositoryCodes);
      }
      if (leads) await this.#watchArchive(status, nowMs);
      else this.#archive = null;
    } catch (error) {
      this.#trouble(error);
      return;
    } finally {
      this.#changed();
    }
    this.#judgeAge(nowMs);
    if (this.#working === null && nowMs >= this.#notBeforeMs) await this.#decide(status, nowMs);
  }

  #noBackupYet(): boolean {
    return this.#info.kind !== "ok" || this.#info.backups.length === 0;
  }

  async #look(status: NodeStatus): Promise<void> {
    this.#info = await this.#pgbackrest.info();
    this.#infoAtMs = Date.now();
    this.#seen = await this.#peers.ask(status);
  }

  async #watchArchive(status: NodeStatus, nowMs: number): Promise<void> {
    if (this.#ledTerm !== status.term) {
      this.#ledTerm = status.term;
      this.#ledSinceMs = nowMs;
      this.#gapCheckedAtMs = 0;
    }
    if (!(await this.#stanzaIsReady()) || (this.#infoAtMs !== null && this.#info.kind === "absent"))
      await this.#makeStanza();
    this.#archive = await readArchiveState(this.#local(), this.#paths);
    const { waitingSegments, oldestWaitingAtMs, failure, dropped } = this.#archive;
    const waitingBytes = waitingSegments * defaultSegmentBytes;
    const lateMs = oldestWaitingAtMs === null ? 0 : nowMs - oldestWaitingAtMs;
    if (waitingSegments > 0 && failure !== null)
      this.#alarms.raise({ ...failure, code: archiveCode(failure) });
    else this.#alarms.clear("repository_full", "archive_failed");
    if (waitingBytes >= this.#backup.archive.alarmBytes || lateMs > lagAlarmMs)
      this.#alarms.raise({
        code: "archive_lagging",
        message: `${waitingSegments} WAL segments wait to be archived, the oldest for ${Math.round(lateMs / 1000)} s`,
        todo: `beyond ${this.#backup.archive.limitBytes} bytes WAL is dropped: see to the repository before`,
      });
    else this.#alarms.clear("archive_lagging");
    const settled = nowMs - this.#ledSinceMs > settleMs;
    if (settled && (dropped || nowMs - this.#gapCheckedAtMs > gapCheckIntervalMs))
      await this.#checkGaps(status, nowMs);
  }

  async #checkGaps(status: NodeStatus, nowMs: number): Promise<void> {
    const info = await this.#pgbackrest.info();
    this.#gapCheckedAtMs = nowMs;
    const newest = info.kind === "ok" ? info.backups.at(-1) : undefined;
    if (info.kind !== "ok" || info.archiveId === null || newest === undefined || status.commitLsn === null)
      return;
    const local = this.#local();
    const listing = await this.#pgbackrest.listArchive(info.archiveId);
    const history = await localHistory(local.dataDirectory, status.term);
    const missing = missingSegments(listing, history, newest.walStart, status.commitLsn);
    const { marked, lost } = await repairArchive(local.dataDirectory, this.#options.owner, missing);
    if (marked.length > 0)
      this.#options.logger.info(
        { segments: marked.slice(0, 20) },
        "segments that nobody archived are archived now",
      );
    const [first] = lost;
    if (first === undefined) {
      this.#gap = null;
      this.#alarms.clear("archive_gap");
      return;
    }
    this.#gap = { segment: first, sinceMs: this.#gap?.sinceMs ?? nowMs };
    this.#alarms.raise({
      code: "archive_gap",
      message: `the archive lacks ${first}${lost.length > 1 ? ` and ${lost.length - 1} more segments` : ""}`,
      todo: "a new backup is made now; moments between the gap and its end can't be restored",
    });
  }

  async #stanzaIsReady(): Promise<boolean> {
    const ready = await readFile(this.#paths.readyFile, "utf8").catch(() => null);
    return ready !== null;
  }

  async #makeStanza(): Promise<void> {
    await rm(this.#paths.readyFile, { force: true });
    await this.#pgbackrest.command("preparing the repository", ["--no-online", "stanza-create"], {
      timeoutMs: 60_000,
      signal: this.#shutdown.signal,
    });
    await writeDurable(this.#paths.readyFile, "", { mode: 0o644 });
    this.#options.logger.info({ stanza: this.#stanza }, "the repository is ready for this cluster");
  }

  #trouble(error: unknown): void {
    if (this.#shutdown.signal.aborted) return;
    if (error instanceof BackupError) this.#alarms.raise(error.failure);
    else this.#options.logger.warn({ err: error }, "backups: a look around failed");
  }

  #judgeAge(nowMs: number): void {
    const backups = this.#info.kind === "ok" ? this.#info.backups : [];
    const [newest] = backups.slice(-1);
    if (newest !== undefined && isTooOld(this.#backup.schedule, backups, nowMs))
      this.#alarms.raise({
        code: "backup_too_old",
        message: `the newest backup is of ${new Date(newest.startedAtMs).toISOString()}`,
        todo: "see the last failed backup, and the schedule in sidecar.json",
      });
    else this.#alarms.clear("backup_too_old");
  }

  // ---- decisions

  #due(nowMs: number): Due | null {
    const backups = this.#info.kind === "ok" ? this.#info.backups : [];
    return dueBackup({ schedule: this.#backup.schedule, backups, nowMs, gapSinceMs: this.#gapSince() });
  }

  async #decide(status: NodeStatus, nowMs: number): Promise<void> {
    let due = this.#due(nowMs);
    let turn = this.#turn(status, due, nowMs);
    if (turn.kind === "run") {
      // What was seen is up to half a minute old: somebody else may have made it since.
      await this.#look(status);
      due = this.#due(nowMs);
      turn = this.#turn(status, due, nowMs);
    }
    const backups = this.#info.kind === "ok" ? this.#info.backups : [];
    if (due !== null && status.state === "leader") await this.#nameTimeline(status);
    if (due !== null && turn.kind === "run") {
      const leader = this.#placeOf(turn.leader, status);
      if (leader === null) return;
      this.#begin(
        `${due.type} backup`,
        (work) => runBackup(work, due, leader),
        (outcome) => {
          if (outcome.retry) {
            this.#notBeforeMs = Date.now() + retryMs;
            return;
          }
          this.#lastRun = { ...outcome.run, problem: outcome.problem };
          if (outcome.problem === null) this.#alarms.clear("backup_failed");
          else this.#alarms.raise(outcome.problem);
        },
      );
      return;
    }
    if (due === null && backups.length > 0) this.#decideTasks(status, nowMs);
  }

  /** Also as the leader sees it, if that is another node. */
  #gapSince(): number | null {
    if (this.#gap !== null) return this.#gap.sinceMs;
    for (const { state, backup } of this.#seen) {
      const alarm =
        state === "leader"
          ? readReport(backup)?.alarms.find(({ code }) => code === "archive_gap")
          : undefined;
      if (alarm !== undefined) return Date.parse(alarm.since);
    }
    return null;
  }

  #decideTasks(status: NodeStatus, nowMs: number): void {
    const lastOf = (which: "restoreTest" | "verify"): number | null => {
      const own = which === "verify" ? this.#verify : this.#restoreTest;
      const all = [own, ...this.#seen.map(({ backup }) => readReport(backup)?.[which] ?? null)];
      const times = all.flatMap((run) => (run === null ? [] : [Date.parse(run.at)]));
      return times.length === 0 ? null : Math.max(...times);
    };
    for (const [which, cron, what] of [
      ["restoreTest", this.#backup.restoreTest, "restore test"],
      ["verify", this.#backup.verify, "verification"],
    ] as const) {
      const last = lastOf(which);
      if (cron === null || !isTaskDue(cron, last, this.#startedAtMs, nowMs)) continue;
      const sinceMs = nextRunMs(cron, last ?? this.#startedAtMs) ?? nowMs;
      const turn = this.#turn(status, { type: "incr", sinceMs, reason: what }, nowMs);
      if (turn.kind !== "run") continue;
      const run = which === "verify" ? runVerify : runRestoreTest;
      this.#begin(what, run, (outcome) => {
        if (which === "verify") this.#verify = outcome.run;
        else this.#restoreTest = outcome.run;
        const code = which === "verify" ? "verify_failed" : "restore_test_failed";
        if (outcome.problem === null) this.#alarms.clear(code);
        else this.#alarms.raise({ ...outcome.problem, code });
      });
      return;
    }
  }

  #turn(status: NodeStatus, due: Due | null, nowMs: number): Turn {
    const key = due === null ? "" : `${due.type} ${due.sinceMs} ${due.reason}`;
    if (key !== this.#dueKey) {
      this.#dueKey = key;
      this.#dueSeenAtMs = nowMs;
    }
    return backupTurn({
      self: status.node,
      nodes: seenNodes(status, this.#seen, (node) => this.#placeOf(node, status) !== null),
      due,
      dueSeenAtMs: this.#dueSeenAtMs,
      nowMs,
      takeoverMs: this.#backup.takeoverSeconds * 1000,
    });
  }

  /** How a backup reaches the leader from here; null: not at all. */
  #placeOf(leader: string, own: NodeStatus): RemotePostgres | "self" | null {
    if (leader === own.node) return "self";
    const status = this.#seen.find(({ node }) => node === leader);
    const report = readReport(status?.backup);
    if (status === undefined || report === null) return null;
    const place = { ...report.place, port: status.pgPort };
    if (status.host === own.host) return place;
    const { tls } = this.#backup;
    const port = report.place.tlsPort;
    return tls === undefined || port === null ? null : { ...place, tls: { host: status.host, port } };
  }

  /** Until its first checkpoint pg_control names the leader's former timeline, and pgBackRest refuses. */
  async #nameTimeline(status: NodeStatus): Promise<void> {
    const local = this.#local();
    const [row] = await localQuery(local, "select timeline_id from pg_control_checkpoint()");
    if (Number(row?.["timeline_id"]) !== status.term) await localQuery(local, "checkpoint", 600_000);
  }

  #begin(what: string, run: (work: BackupWork) => Promise<Outcome>, done: (outcome: Outcome) => void): void {
    const { config, paths, owner, logger } = this.#options;
    const running = { what, since: new Date().toISOString(), percent: null as number | null };
    this.#working = running;
    this.#changed();
    logger.info({ what }, "backups: begun");
    const work: BackupWork = {
      pgbackrest: this.#pgbackrest,
      config,
      stanza: this.#stanza,
      paths: this.#paths,
      nodePaths: paths,
      owner,
      signal: this.#shutdown.signal,
      onPercent: (percent) => {
        this.#working = { ...running, percent };
        this.#changed();
      },
    };
    this.#work = run(work)
      .then((outcome) => {
        const { ok, message } = outcome.run;
        if (this.#shutdown.signal.aborted) return;
        if (ok) logger.info({ what }, `backups: ${message}`);
        else if (outcome.retry) logger.info({ what }, `backups: later: ${message}`);
        else logger.error({ what, code: outcome.problem?.code }, `backups: ${message}`);
        done(outcome);
      })
      .catch((error: unknown) => logger.error({ err: error, what }, "backups: failed"))
      .finally(() => {
        this.#working = null;
        this.#infoAtMs = null;
        this.#changed();
      });
  }
}

/** This node, everybody in its ruleset, and the observers that the leader sees. Pure. */
export function seenNodes(
  own: NodeStatus,
  others: readonly NodeStatus[],
  reaches: (leader: string) => boolean,
): SeenNode[] {
  const all = [own, ...others.filter(({ node }) => node !== own.node)];
  const leader = all
    .filter(({ state }) => state === "leader")
    .reduce<NodeStatus | undefined>(
      (best, each) => (best === undefined || each.term > best.term ? each : best),
      undefined,
    );
  if (leader === undefined) return [];
  const cohort = new Set<string>(Object.keys(cohortOf(leader)));
  const known: SeenNode[] = all.map((each) => {
    const report = readReport(each.backup);
    const role = each.node === leader.node ? "leader" : cohort.has(each.node) ? "follower" : "observer";
    const streams =
      each.leader === leader.node && each.receiver?.state === "streaming" && each.term === leader.term;
    return {
      id: each.node,
      role,
      healthy:
        report !== null &&
        (role === "leader" || (streams && (each.node !== own.node || reaches(leader.node)))),
      busy: report?.running !== undefined && report.running !== null,
      failedAtMs: report?.lastRun?.ok === false ? Date.parse(report.lastRun.at) : null,
    };
  });
  const strangers = leader.followers
    .filter(({ node }) => !all.some((each) => each.node === node) && !cohort.has(node))
    .map(
      ({ node }): SeenNode => ({ id: node, role: "observer", healthy: true, busy: false, failedAtMs: null }),
    );
  return [...known, ...strangers];
}

function cohortOf(leader: NodeStatus): Record<string, true> {
  try {
    const { cohort } = JSON.parse(leader.ruleset?.text ?? "{}") as { cohort?: { id: string }[] };
    return Object.fromEntries((cohort ?? []).map(({ id }) => [id, true]));
  } catch {
    return {};
  }
}
