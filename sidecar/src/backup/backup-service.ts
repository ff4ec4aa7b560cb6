/**
 * Backups of one node: prepares pgBackRest, watches the archive while this node leads, makes backups, restore tests
 * and verifications when it is its turn, restores a new node from a backup, and reports all of it.
 *
 * One look at everything every `tickMs`; one piece of work at a time. What to do is decided in backup-schedule.ts and
 * backup-turn.ts.
 */
import type { Logger } from "@quorate/common";
import type { NodeStatus } from "@quorate/proto";
import type { SidecarConfig } from "../config.ts";
import type { PostgresOwner } from "../environment.ts";
import type { NodePaths } from "../paths.ts";
import { Alarms } from "./alarms.ts";
import { ArchiveKeeper } from "./archive-keeper.ts";
import { type BackupConfig, remoteRepository } from "./backup-config.ts";
import { copyCertificates, prepareBackup, serveRepository } from "./backup-environment.ts";
import { alarmEvent, type BackupEvent, type BackupHost, BackupTrail } from "./backup-events.ts";
import { type BackupReport, readReport, shownBackup } from "./backup-report.ts";
import { type Due, dueBackup, isMadeGood, isTaskDue, isTooOld, nextRunMs } from "./backup-schedule.ts";
import { backupTurn, type Turn } from "./backup-turn.ts";
import { type BackupWork, type Outcome, runBackup, runRestoreTest, runVerify } from "./backup-work.ts";
import { localQuery } from "./local-sql.ts";
import { NodeData } from "./node-data.ts";
import { Peers } from "./peers.ts";
import { BackupError, Pgbackrest } from "./pgbackrest.ts";
import { type BackupPaths, backupPaths, type LocalPostgres, type RemotePostgres } from "./pgbackrest-conf.ts";
import type { Backup, RepositoryInfo } from "./repository-info.ts";
import { gapOfLeader, newestSeenMs, placeOf, seenNodes, streamsFrom, whoSeesBackups } from "./seen-nodes.ts";
import { TlsServer } from "./tls-server.ts";

export type BackupServiceOptions = {
  readonly config: SidecarConfig & { readonly backup: BackupConfig };
  readonly paths: NodePaths;
  readonly owner: PostgresOwner;
  readonly logger: Logger;
  readonly peers?: Pick<Peers, "ask" | "tell" | "close">;
  /** For tests of schedules. */
  readonly clock?: () => number;
};

const tickMs = 2_000;
const infoIntervalMs = 30_000;
const retryMs = 10_000;
const checkpointTimeoutMs = 600_000;

type Task = "restoreTest" | "verify";

export class BackupService {
  readonly #options: BackupServiceOptions;
  readonly #backup: BackupConfig;
  readonly #stanza: string;
  readonly #paths: BackupPaths;
  readonly #pgbackrest: Pgbackrest;
  readonly #peers: Pick<Peers, "ask" | "tell" | "close">;
  readonly #clock: () => number;
  readonly #trail: BackupTrail;
  readonly #alarms: Alarms;
  readonly #archive: ArchiveKeeper;
  readonly #server: TlsServer | null;
  readonly #shutdown = new AbortController();
  readonly #startedAtMs: number;
  #host: BackupHost | null = null;
  #timer: NodeJS.Timeout | undefined;
  #ticking: Promise<void> = Promise.resolve();
  #info: RepositoryInfo = { kind: "absent" };
  #infoAtMs: number | null = null;
  #seen: readonly NodeStatus[] = [];
  #dueKey = "";
  #dueSeenAtMs = 0;
  #notBeforeMs = 0;
  #working: BackupReport["running"] = null;
  #work: Promise<void> = Promise.resolve();
  #lastRun: BackupReport["lastRun"] = null;
  readonly #tasks: { restoreTest: BackupReport["restoreTest"]; verify: BackupReport["verify"] } = {
    restoreTest: null,
    verify: null,
  };

  constructor(options: BackupServiceOptions) {
    this.#options = options;
    const { config, paths, owner, logger } = options;
    this.#backup = config.backup;
    this.#stanza = config.backup.stanza ?? config.cluster;
    this.#paths = backupPaths(paths.root, config.backup, config.host);
    this.#pgbackrest = new Pgbackrest({
      config: config.backup,
      stanza: this.#stanza,
      paths: this.#paths,
      host: config.host,
      owner,
      signal: this.#shutdown.signal,
    });
    this.#peers = options.peers ?? new Peers();
    this.#clock = options.clock ?? Date.now;
    this.#startedAtMs = this.#clock();
    this.#trail = new BackupTrail(this.#peers, logger);
    this.#alarms = new Alarms((change) => {
      const { code, message, todo } = change.alarm;
      if (change.kind === "raised") logger.error({ code }, `backups: ALARM: ${message}; ${todo}`);
      else logger.info({ code }, "backups: the alarm is over");
      this.#tell(alarmEvent(change, this.#clock()));
    });
    this.#archive = new ArchiveKeeper({
      config: config.backup,
      stanza: this.#stanza,
      paths: this.#paths,
      postgres: this.#local(),
      owner,
      pgbackrest: this.#pgbackrest,
      holdsRepository: this.#holdsRepository,
      alarms: this.#alarms,
      logger,
      signal: this.#shutdown.signal,
    });
    this.#server =
      config.backup.tls === undefined
        ? null
        : new TlsServer({
            command: config.backup.pgbackrest,
            conf: this.#paths.conf,
            osUser: config.postgres.osUser,
            cwd: this.#paths.root,
            logger,
          });
  }

  /** Directories, configuration, scripts. Throws ConfigError. */
  prepare(): void {
    const { config, owner } = this.#options;
    const all = { config, paths: this.#paths, stanza: this.#stanza, postgres: this.#local(), owner };
    prepareBackup(all);
    serveRepository(all);
  }

  start(host: BackupHost): void {
    this.#host = host;
    const next = (): void => {
      this.#ticking = this.#tick(host.status())
        .catch((error: unknown) => this.#trouble(error))
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
    if (this.#holdsRepository)
      await this.#archive.makeStanza().catch((error: unknown) => this.#trouble(error));
  }

  // ---- what others see

  report(): BackupReport {
    const { config } = this.#options;
    const { dataDirectory, socketDirectory } = this.#local();
    const info = this.#info.kind === "ok" ? this.#info : null;
    return {
      place: {
        dataDirectory,
        socketDirectory,
        tlsPort: config.backup.tls?.port ?? null,
        conf: this.#paths.conf,
        backsUp: this.#holdsRepository,
      },
      running: this.#working,
      lastRun: this.#lastRun,
      repository:
        info === null || this.#infoAtMs === null
          ? null
          : {
              seenAt: new Date(this.#infoAtMs).toISOString(),
              count: info.backups.length,
              oldest: shownBackup(info.backups[0]),
              newest: shownBackup(info.backups.at(-1)),
            },
      archive: this.#archive.report(),
      restoreTest: this.#tasks.restoreTest,
      verify: this.#tasks.verify,
      alarms: this.#alarms.list(),
    };
  }

  // ---- a new node

  /** Makes this node's data from backup and archive, or brings it up to date. */
  get nodeData(): NodeData {
    const { config, paths: nodePaths, owner, logger } = this.#options;
    const paths = this.#paths;
    const place = { config, stanza: this.#stanza, paths, nodePaths, owner };
    return new NodeData({ ...place, pgbackrest: this.#pgbackrest, logger }, (event) => this.#tell(event));
  }

  // ---- the loop

  get #holdsRepository(): boolean {
    const { config } = this.#options;
    return remoteRepository(config.backup, config.host) === null;
  }

  /** Whether it is within reach of one node only. */
  get #exclusive(): boolean {
    const { repository } = this.#backup;
    return repository.type === "posix" && repository.host !== undefined;
  }

  #local(): LocalPostgres {
    const { config, paths } = this.#options;
    return { dataDirectory: paths.data, socketDirectory: paths.run, port: config.ports.postgres };
  }

  get #backups(): readonly Backup[] {
    return this.#info.kind === "ok" ? this.#info.backups : [];
  }

  async #tick(status: NodeStatus): Promise<void> {
    this.#renewCertificates();
    const running = status.postgres === "running";
    const leads = running && status.state === "leader";
    if (!leads) this.#archive.forget();
    if (!running) return;
    const nowMs = this.#clock();
    try {
      if (leads) await this.#archive.look(status, nowMs);
      this.#seen = await this.#peers.ask(status);
      if (this.#isOutdated(nowMs)) await this.#look();
      this.#mustBeThePlace(status.node);
      if (leads) await this.#archive.tend(status, this.#info, nowMs);
      else if (this.#backup.tls !== undefined && this.#holdsRepository)
        await this.#archive.prepareRepository(this.#info);
      this.#alarms.clear("repository");
    } catch (error) {
      this.#trouble(error);
      return;
    } finally {
      this.#host?.changed();
    }
    this.#judge(nowMs);
    if (this.#working === null && nowMs >= this.#notBeforeMs) await this.#decide(status, nowMs);
  }

  /** What is known of the repository: by age, or because another node has seen a newer backup. */
  #isOutdated(nowMs: number): boolean {
    const newest = this.#backups.at(-1);
    if (this.#infoAtMs === null || nowMs - this.#infoAtMs >= infoIntervalMs || newest === undefined)
      return true;
    return newestSeenMs(this.#seen) > newest.stoppedAtMs;
  }

  async #look(): Promise<void> {
    this.#infoAtMs = null;
    this.#info = await this.#pgbackrest.info();
    this.#infoAtMs = this.#clock();
  }

  /** No second archive is begun where the cluster's isn't mounted. */
  #mustBeThePlace(self: string): void {
    const seer = this.#info.kind === "absent" ? whoSeesBackups(self, this.#seen) : null;
    if (seer === null) return;
    const failure = {
      code: "repository_unreachable",
      message: `the repository is empty here, but ${seer} sees backups in it`,
      todo: "mount what is mounted there, or make backup.repository in sidecar.json the same place; WAL waits",
    } as const;
    throw new BackupError(failure, "reading the repository");
  }

  #renewCertificates(): void {
    const { owner, logger } = this.#options;
    try {
      if (!copyCertificates(this.#backup, this.#paths, owner)) return;
      logger.info("backups: new certificates");
      this.#server?.reload();
    } catch (error) {
      logger.warn({ err: error }, "backups: the certificates (backup.tls) can't be read");
    }
  }

  #trouble(error: unknown): void {
    if (this.#shutdown.signal.aborted) return;
    if (error instanceof BackupError) this.#alarms.set("repository", error.failure);
    else this.#options.logger.warn({ err: error }, "backups: a look around failed");
  }

  /** How old the newest backup is; and what others have done since this node failed at it. */
  #judge(nowMs: number): void {
    const newest = this.#backups.at(-1);
    const tooOld = newest !== undefined && isTooOld(this.#backup.schedule, this.#backups, nowMs);
    this.#alarms.set(
      "age",
      tooOld
        ? {
            code: "backup_too_old",
            message: `the newest backup is of ${new Date(newest.startedAtMs).toISOString()}`,
            todo: "see the last failed backup, and the schedule in sidecar.json",
          }
        : null,
    );
    if (newest !== undefined && isMadeGood(this.#lastRun, newest)) this.#alarms.clear("backup");
    for (const task of ["restoreTest", "verify"] as const)
      if (this.#alarms.has(task) && this.#lastOf(task)?.ok === true) this.#alarms.clear(task);
  }

  #tell(event: BackupEvent): void {
    if (this.#host !== null) void this.#trail.tell(this.#host, event);
  }

  // ---- decisions

  #due(nowMs: number): Due | null {
    const gap = this.#archive.gap ?? gapOfLeader(this.#seen);
    return dueBackup({ schedule: this.#backup.schedule, backups: this.#backups, nowMs, gap });
  }

  async #decide(status: NodeStatus, nowMs: number): Promise<void> {
    let due = this.#due(nowMs);
    let turn = this.#turn(status, due, nowMs);
    if (turn.kind === "run") {
      // What was seen of the repository is up to half a minute old: somebody else may have made it since.
      this.#seen = await this.#peers.ask(status);
      await this.#look();
      due = this.#due(nowMs);
      turn = this.#turn(status, due, nowMs);
    }
    if (due !== null && status.state === "leader") await this.#nameTimeline(status);
    if (due !== null && turn.kind === "run") this.#beginBackup(due, turn.leader, status);
    else if (due === null && this.#backups.length > 0) this.#decideTasks(status, nowMs);
  }

  #beginBackup(due: Due, leader: string, status: NodeStatus): void {
    const other = leader === status.node ? this.#helper(status) : this.#placeOf(leader);
    if (other === null) return;
    const run = (work: BackupWork) => runBackup(work, due, other);
    this.#begin(`${due.type} backup`, "backup", due.reason, run, ({ run: last, problem }) => {
      this.#lastRun = { ...last, problem };
      this.#alarms.set("backup", problem);
    });
  }

  /** The newest anywhere. */
  #lastOf(task: Task): BackupReport[Task] {
    const all = [this.#tasks[task], ...this.#seen.map(({ backup }) => readReport(backup)?.[task] ?? null)];
    return all.reduce(
      (best, run) => (best === null || (run !== null && run.at > best.at) ? run : best),
      null,
    );
  }

  #decideTasks(status: NodeStatus, nowMs: number): void {
    for (const [task, cron, what, row, code] of [
      ["restoreTest", this.#backup.restoreTest, "restore test", "restore_test", "restore_test_failed"],
      ["verify", this.#backup.verify, "verification", "verify", "verify_failed"],
    ] as const) {
      const lastAt = this.#lastOf(task)?.at;
      const last = lastAt === undefined ? null : Date.parse(lastAt);
      if (cron === null || !isTaskDue(cron, last, this.#startedAtMs, nowMs)) continue;
      const sinceMs = nextRunMs(cron, last ?? this.#startedAtMs) ?? nowMs;
      const turn = this.#turn(status, { type: "incr", sinceMs, reason: what }, nowMs);
      if (turn.kind !== "run") continue;
      const run = task === "verify" ? runVerify : runRestoreTest;
      this.#begin(what, row, `scheduled (${cron})`, run, (outcome) => {
        this.#tasks[task] = outcome.run;
        this.#alarms.set(task, outcome.problem === null ? null : { ...outcome.problem, code });
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
      nodes: seenNodes(status, this.#seen, (node) => this.#placeOf(node) !== null, this.#exclusive),
      due,
      dueSeenAtMs: this.#dueSeenAtMs,
      nowMs,
      takeoverMs: this.#backup.takeoverSeconds * 1000,
    });
  }

  #placeOf(node: string): RemotePostgres | null {
    const status = this.#seen.find((each) => each.node === node);
    if (status === undefined) return null;
    return placeOf(status, { host: this.#options.config.host, tls: this.#backup.tls !== undefined });
  }

  /** A leader that alone can make backups copies the files of a follower, if it reaches one. */
  #helper(own: NodeStatus): RemotePostgres | "self" {
    if (!this.#exclusive) return "self";
    for (const status of this.#seen) {
      const place = streamsFrom(status, own) ? this.#placeOf(status.node) : null;
      if (place !== null) return place;
    }
    return "self";
  }

  /** Until its first checkpoint pg_control names the leader's former timeline, and pgBackRest refuses. */
  async #nameTimeline(status: NodeStatus): Promise<void> {
    const local = this.#local();
    const [row] = await localQuery(local, "select timeline_id from pg_control_checkpoint()");
    if (Number(row?.["timeline_id"]) !== status.term)
      await localQuery(local, "checkpoint", { statementTimeoutMs: checkpointTimeoutMs });
  }

  #begin(
    what: string,
    row: BackupEvent["row"],
    reason: string,
    run: (work: BackupWork) => Promise<Outcome>,
    done: (outcome: Outcome) => void,
  ): void {
    const { config, paths, owner, logger } = this.#options;
    const running = { what, since: new Date().toISOString(), percent: null as number | null };
    this.#working = running;
    this.#host?.changed();
    logger.info({ what }, "backups: begun");
    const startedMs = performance.now();
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
        this.#host?.changed();
      },
    };
    this.#work = run(work)
      .then((outcome) => {
        if (this.#shutdown.signal.aborted) return;
        const { ok, message } = outcome.run;
        if (outcome.retry) {
          logger.info({ what }, `backups: later: ${message}`);
          this.#notBeforeMs = this.#clock() + retryMs;
          return;
        }
        if (ok) logger.info({ what }, `backups: ${message}`);
        else logger.error({ what, code: outcome.problem?.code }, `backups: ${message}`);
        done(outcome);
        const code = outcome.problem === null ? {} : { code: outcome.problem.code };
        this.#tell({ row, reason, outcome: message, ok, durationMs: performance.now() - startedMs, ...code });
      })
      .catch((error: unknown) => logger.error({ err: error, what }, "backups: failed"))
      .finally(() => {
        this.#working = null;
        this.#infoAtMs = null;
        this.#host?.changed();
      });
  }
}
