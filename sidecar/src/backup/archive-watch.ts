/**
 * The archive as the leader sees it: what waits, what failed, what is missing. And its repair: a leader that dies
 * before it has pushed a segment leaves a hole that its successor fills, who has the same segment but took it for
 * somebody else's business. Marking it .ready is all that is needed; only a leader's archiver pushes.
 */
import { chown, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { codeOf } from "@quorate/common";
import type { PostgresOwner } from "../environment.ts";
import { type BackupFailure, explainFailure } from "./backup-failures.ts";
import { localQuery } from "./local-sql.ts";
import type { BackupPaths, LocalPostgres } from "./pgbackrest-conf.ts";
import type { ArchiveListing } from "./repository-info.ts";
import {
  defaultSegmentBytes,
  historyFileName,
  parseHistory,
  segmentInHistory,
  segmentNumber,
  type Timeline,
} from "./wal-archive.ts";

export type ArchiveState = {
  readonly lastArchived: string | null;
  readonly lastArchivedAtMs: number | null;
  readonly lastFailedAtMs: number | null;
  readonly waitingSegments: number;
  readonly oldestWaitingAtMs: number | null;
  readonly failure: BackupFailure | null;
  /** Since the last look WAL was dropped. */
  readonly dropped: boolean;
};

const segmentPattern = /^[0-9A-F]{24}$/;

async function unlessMissing<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}

/** What the push script left: exit code and words; nothing, if the node's own disk had no room for them. Pure. */
export function pushFailure(text: string, freeBytes: number | null): BackupFailure {
  const newline = text.indexOf("\n");
  if (newline < 0)
    return explainFailure(1, "No space left on device, where the node keeps what archiving has to say");
  return explainFailure(Number(text.slice(0, newline)), text.slice(newline + 1), freeBytes);
}

const msOf = (value: unknown): number | null =>
  value === null || value === undefined ? null : Number(value);

export async function readArchiveState(
  postgres: LocalPostgres,
  paths: BackupPaths,
  freeBytes: () => Promise<number | null>,
): Promise<ArchiveState> {
  const statusDirectory = path.join(postgres.dataDirectory, "pg_wal/archive_status");
  const ready = (await readdir(statusDirectory))
    .filter((name) => name.endsWith(".ready") && segmentPattern.test(name.slice(0, -6)))
    .sort();
  const oldest =
    ready[0] === undefined ? null : await unlessMissing(stat(path.join(statusDirectory, ready[0])));
  const [row] = await localQuery(
    postgres,
    "select left(last_archived_wal, 24) as last_archived_wal, extract(epoch from last_archived_time) * 1000 as archived_at, extract(epoch from last_failed_time) * 1000 as failed_at from pg_stat_archiver",
  );
  const error = await unlessMissing(readFile(paths.errorFile, "utf8"));
  const dropped = await unlessMissing(rm(paths.droppedFile).then(() => true));
  return {
    lastArchived: typeof row?.["last_archived_wal"] === "string" ? row["last_archived_wal"] : null,
    lastArchivedAtMs: msOf(row?.["archived_at"]),
    lastFailedAtMs: msOf(row?.["failed_at"]),
    waitingSegments: ready.length,
    oldestWaitingAtMs: oldest?.mtimeMs ?? null,
    failure: error === null ? null : pushFailure(error, await freeBytes()),
    dropped: dropped === true,
  };
}

/** The history of the timeline on which this server writes. */
export async function localHistory(dataDirectory: string, timeline: number): Promise<Timeline[]> {
  const file = path.join(dataDirectory, "pg_wal", historyFileName(timeline));
  return parseHistory(timeline, (await unlessMissing(readFile(file, "utf8"))) ?? "");
}

/** Complete, committed, needed for a restore from the newest backup, and not in the archive. Pure. */
export function missingSegments(
  listing: ArchiveListing,
  history: readonly Timeline[],
  firstSegment: string,
  commitLsn: bigint,
): string[] {
  const have = new Set(listing.segments.map(({ name }) => name));
  const end = commitLsn / BigInt(defaultSegmentBytes);
  const missing: string[] = [];
  for (let number = segmentNumber(firstSegment, defaultSegmentBytes); number < end; number++) {
    const name = segmentInHistory(history, number, defaultSegmentBytes);
    if (!have.has(name)) missing.push(name);
  }
  return missing;
}

export type RepairOutcome = {
  /** Marked, to be pushed. */
  readonly marked: readonly string[];
  /** Waiting already. */
  readonly waiting: readonly string[];
  /** Not here any more: a gap. */
  readonly lost: readonly string[];
};

export async function repairArchive(
  dataDirectory: string,
  owner: PostgresOwner,
  missing: readonly string[],
  /** At most so many are marked, the oldest first. */
  room: number,
): Promise<RepairOutcome> {
  const wal = path.join(dataDirectory, "pg_wal");
  const marked: string[] = [];
  const waiting: string[] = [];
  const lost: string[] = [];
  for (const name of missing) {
    const ready = path.join(wal, "archive_status", `${name}.ready`);
    if ((await unlessMissing(stat(path.join(wal, name)))) === null) lost.push(name);
    else if ((await unlessMissing(stat(ready))) !== null) waiting.push(name);
    else if (marked.length < room) {
      const done = path.join(wal, "archive_status", `${name}.done`);
      const renamed = await unlessMissing(rename(done, ready).then(() => true));
      if (renamed === null) {
        await writeFile(ready, "", { mode: 0o600 });
        if (owner !== undefined) await chown(ready, owner.uid, owner.gid);
      }
      marked.push(name);
    }
  }
  return { marked, waiting, lost };
}
