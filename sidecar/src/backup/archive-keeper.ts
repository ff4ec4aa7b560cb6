/**
 * The leader's care for the archive: its place in the repository, what waits and what failed, holes and their repair.
 * Nothing of this is anybody else's business: a node that doesn't lead forgets all of it.
 */
import { readFile, rm } from "node:fs/promises";
import { type Logger, sendSignal, writeDurable } from "@quorate/common";
import type { NodeStatus } from "@quorate/proto";
import type { PostgresOwner } from "../environment.ts";
import type { Alarms } from "./alarms.ts";
import { type CheckPlan, type Gap, isCheckDue, noPlan, planAfterCheck, planAgain } from "./archive-gap.ts";
import {
  type ArchiveState,
  localHistory,
  missingSegments,
  readArchiveState,
  repairArchive,
} from "./archive-watch.ts";
import { notWoken, wakeStep } from "./archiver-wake.ts";
import type { BackupConfig } from "./backup-config.ts";
import type { BackupFailure } from "./backup-failures.ts";
import type { BackupReport } from "./backup-report.ts";
import { localQuery } from "./local-sql.ts";
import type { Pgbackrest } from "./pgbackrest.ts";
import type { BackupPaths, LocalPostgres } from "./pgbackrest-conf.ts";
import type { RepositoryInfo } from "./repository-info.ts";
import { defaultSegmentBytes } from "./wal-archive.ts";

export type ArchiveKeeperOptions = {
  readonly config: BackupConfig;
  readonly stanza: string;
  readonly paths: BackupPaths;
  readonly postgres: LocalPostgres;
  readonly owner: PostgresOwner;
  readonly pgbackrest: Pgbackrest;
  /** Whether the repository is within this node's own reach: only there a place in it can be made. */
  readonly holdsRepository: boolean;
  readonly alarms: Alarms;
  readonly logger: Logger;
  readonly signal: AbortSignal;
};

/** A new leader leaves its predecessor, who may only be cut off, time to end the push that he is at. */
const settleMs = 10_000;
const lagAlarmMs = 300_000;
const stanzaTimeoutMs = 60_000;

function archiveCode({ code }: BackupFailure): BackupFailure["code"] {
  return code === "backup_failed" ? "archive_failed" : code;
}

/**
 * So many segments may be marked at once: pgBackRest drops the oldest waiting one whenever more than the limit wait,
 * also in a repository that works again. Half of the limit leaves room for what the leader writes meanwhile. Pure.
 */
export function roomForRepair(limitBytes: number, waitingSegments: number): number {
  return Math.max(0, Math.floor(limitBytes / 2 / defaultSegmentBytes) - waitingSegments);
}

export class ArchiveKeeper {
  readonly #options: ArchiveKeeperOptions;
  #state: ArchiveState | null = null;
  #plan: CheckPlan = noPlan;
  #ledTerm = 0;
  #ledSinceMs = 0;
  #waking = notWoken;
  /** Whether the repository could be read when it was tried last. */
  #readable = true;

  constructor(options: ArchiveKeeperOptions) {
    this.#options = options;
  }

  get gap(): Gap | null {
    return this.#plan.gap;
  }

  report(): BackupReport["archive"] {
    if (this.#state === null) return null;
    const { lastArchived, lastArchivedAtMs, waitingSegments, oldestWaitingAtMs } = this.#state;
    const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());
    return {
      lastArchived,
      lastArchivedAt: iso(lastArchivedAtMs),
      waitingSegments,
      waitingBytes: waitingSegments * defaultSegmentBytes,
      oldestWaitingAt: iso(oldestWaitingAtMs),
      gap: this.#plan.gap?.segment ?? null,
    };
  }

  /** This node doesn't lead (any more). */
  forget(): void {
    this.#state = null;
    this.#plan = noPlan;
    this.#ledTerm = 0;
    this.#options.alarms.clear("archiver", "lag", "gap");
  }

  /** What waits, and why: needs no repository. */
  async look(status: NodeStatus, nowMs: number): Promise<void> {
    const { config, postgres, paths, alarms, pgbackrest } = this.#options;
    if (!this.#readable) this.#waking = notWoken;
    this.#readable = false;
    if (this.#ledTerm !== status.term) {
      this.#ledTerm = status.term;
      this.#ledSinceMs = nowMs;
      this.#plan = { ...noPlan, atMs: nowMs + settleMs };
    }
    const state = await readArchiveState(postgres, paths, () => pgbackrest.freeBytes());
    this.#state = state;
    if (state.dropped) this.#plan = { ...this.#plan, atMs: Math.min(this.#plan.atMs, nowMs) };
    const waitingBytes = state.waitingSegments * defaultSegmentBytes;
    const lateMs = state.oldestWaitingAtMs === null ? 0 : nowMs - state.oldestWaitingAtMs;
    const { failure } = state;
    alarms.set(
      "archiver",
      state.waitingSegments > 0 && failure !== null ? { ...failure, code: archiveCode(failure) } : null,
    );
    const lags = waitingBytes >= config.archive.alarmBytes || lateMs > lagAlarmMs;
    alarms.set(
      "lag",
      lags
        ? {
            code: "archive_lagging",
            message: `${state.waitingSegments} WAL segments wait to be archived, the oldest for ${Math.round(lateMs / 1000)} s`,
            todo: `beyond ${config.archive.limitBytes} bytes WAL is dropped: see to the repository before`,
          }
        : null,
    );
  }

  /** With a repository that can be read. Throws BackupError. */
  async tend(status: NodeStatus, info: RepositoryInfo, nowMs: number): Promise<void> {
    await this.prepareRepository(info);
    const plan = this.#plan;
    const waitingSegments = this.#state?.waitingSegments ?? 0;
    const newest = info.kind === "ok" ? info.backups.at(-1) : undefined;
    const settled = nowMs - this.#ledSinceMs > settleMs;
    if (settled && isCheckDue({ plan, waitingSegments, newest, nowMs })) await this.#repair(status, nowMs);
    this.#readable = true;
    if (this.#state === null) return;
    const { state, wake } = wakeStep(this.#waking, this.#state, nowMs);
    this.#waking = state;
    if (wake) await this.#wakeArchiver();
  }

  /** Any of Postgres's processes looks for work at this signal. */
  async #wakeArchiver(): Promise<void> {
    const sql = "select pid from pg_stat_activity where backend_type = 'archiver'";
    for (const { pid } of await localQuery(this.#options.postgres, sql)) sendSignal(Number(pid), "SIGUSR1");
  }

  /** On the leader, and on the node that has the repository: a place for this cluster, without which nothing is pushed. */
  async prepareRepository(info: RepositoryInfo): Promise<void> {
    const { paths, holdsRepository } = this.#options;
    const ready = (await readFile(paths.readyFile, "utf8").catch(() => null)) !== null;
    if (info.kind === "absent") {
      if (holdsRepository) await this.makeStanza();
      else if (ready) await rm(paths.readyFile, { force: true });
    } else if (!ready) await writeDurable(paths.readyFile, "", { mode: 0o644 });
  }

  async makeStanza(): Promise<void> {
    const { paths, pgbackrest, signal, logger, stanza } = this.#options;
    await rm(paths.readyFile, { force: true });
    await pgbackrest.command("preparing the repository", ["--no-online", "stanza-create"], {
      timeoutMs: stanzaTimeoutMs,
      signal,
    });
    await writeDurable(paths.readyFile, "", { mode: 0o644 });
    logger.info({ stanza }, "the repository is ready for this cluster");
  }

  async #repair(status: NodeStatus, nowMs: number): Promise<void> {
    const { pgbackrest, postgres, owner, config, alarms, logger } = this.#options;
    const info = await pgbackrest.info();
    const newest = info.kind === "ok" ? info.backups.at(-1) : undefined;
    const before = this.#plan;
    if (info.kind !== "ok" || info.archiveId === null || newest === undefined || status.commitLsn === null) {
      this.#plan = planAgain(before, nowMs);
      return;
    }
    const listing = await pgbackrest.listArchive(info.archiveId);
    const history = await localHistory(postgres.dataDirectory, status.term);
    const missing = missingSegments(listing, history, newest.walStart, status.commitLsn);
    const room = roomForRepair(config.archive.limitBytes, this.#state?.waitingSegments ?? 0);
    const { marked, waiting, lost } = await repairArchive(postgres.dataDirectory, owner, missing, room);
    this.#plan = planAfterCheck({ before, missing, lost, nowMs, settleMs });
    if (marked.length > 0) {
      logger.info(
        { segments: marked.slice(0, 20), waiting: waiting.length },
        "segments that nobody archived are archived now",
      );
      await this.#wakeArchiver();
    }
    const [first] = lost;
    if (first === undefined) {
      alarms.clear("gap");
      return;
    }
    alarms.set("gap", {
      code: "archive_gap",
      message: `the archive lacks ${first}${lost.length > 1 ? ` and ${lost.length - 1} more segments` : ""}`,
      todo: "a new backup is made now; moments between the gap and its end can't be restored",
    });
  }
}
