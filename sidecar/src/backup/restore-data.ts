/** A backup becomes a data directory: pgBackRest restores the files, then Postgres replays the archive. */
import { chmod, chown, mkdir, rm } from "node:fs/promises";
import { messageOf } from "@quorate/common";
import type { PostgresOwner } from "../environment.ts";
import { sidecarErrors } from "../error-codes.ts";
import { type ReplayClient, type ReplayTarget, replayArchive } from "./archive-replay.ts";
import type { BackupConfig } from "./backup-config.ts";
import type { Pgbackrest } from "./pgbackrest.ts";
import { getScript } from "./pgbackrest-conf.ts";
import { type ArchiveListing, emptyListing, type RepositoryInfo } from "./repository-info.ts";
import { planRestore, type RestorePlan } from "./restore-plan.ts";
import {
  defaultSegmentBytes,
  historyFileName,
  newestTimeline,
  parseHistory,
  segmentNumber,
  type Timeline,
} from "./wal-archive.ts";

export type RestoreSource = {
  readonly plan: RestorePlan;
  readonly listing: ArchiveListing;
};

/** What is archived, and the history of its newest timeline. */
export async function lookIntoArchive(
  pgbackrest: Pgbackrest,
  info: RepositoryInfo,
): Promise<{ readonly listing: ArchiveListing; readonly history: readonly Timeline[] }> {
  const archiveId = info.kind === "ok" ? info.archiveId : null;
  const listing = archiveId === null ? emptyListing : await pgbackrest.listArchive(archiveId);
  const timeline = newestTimeline(listing) ?? 1;
  const file = historyFileName(timeline);
  const text =
    archiveId !== null && listing.histories.includes(file)
      ? await pgbackrest.readHistory(archiveId, file)
      : "";
  return { listing, history: parseHistory(timeline, text) };
}

/** Looks into the repository; changes nothing. `label`: this backup and no other. */
export async function lookForRestore(
  pgbackrest: Pgbackrest,
  target: ReplayTarget,
  label?: string,
): Promise<RestoreSource> {
  const info = await pgbackrest.info();
  if (info.kind !== "ok" || info.backups.length === 0)
    throw sidecarErrors.error(
      "nothing_to_restore",
      'the repository holds no backup of this cluster: see "quorate status" for the reason, or name another repository',
    );
  const { listing, history } = await lookIntoArchive(pgbackrest, info);
  const plan = planRestore({
    backups: info.backups,
    listing,
    history,
    target,
    segmentBytes: defaultSegmentBytes,
    ...(label === undefined ? {} : { label }),
  });
  return { plan, listing };
}

export type RestoreDataOptions = {
  readonly pgbackrest: Pgbackrest;
  readonly config: BackupConfig;
  readonly stanza: string;
  readonly conf: string;
  readonly binDir: string;
  readonly osUser: string;
  readonly owner: PostgresOwner;
  readonly source: RestoreSource;
  /** Made anew. */
  readonly data: string;
  readonly tablespaces: string;
  readonly logFile: string;
  readonly signal: AbortSignal;
  /** Of the programs; default: our own. */
  readonly niceness?: number | undefined;
  readonly onProgress: (progress: RestoreProgress) => void;
  /** With the restored server, before it is stopped. */
  readonly work?: (client: ReplayClient) => Promise<void>;
};

export type RestoreProgress =
  | { readonly kind: "files"; readonly doneBytes: number; readonly totalBytes: number }
  | { readonly kind: "replay"; readonly lsn: string };

/** The last percentage in pgBackRest's detailed log: "(16KB, 12.34%)". */
export function parsePercent(chunk: string): number | null {
  const last = [...chunk.matchAll(/\((?:bundle [^)]*?, )?[\d.]+[KMGT]?i?B?, (\d+(?:\.\d+)?)%\)/g)].at(-1);
  return last?.[1] === undefined ? null : Number(last[1]);
}

/** The backup's files alone, by pgBackRest. */
export async function restoreFiles(
  options: Pick<
    RestoreDataOptions,
    "pgbackrest" | "data" | "tablespaces" | "owner" | "source" | "signal" | "onProgress" | "niceness"
  >,
): Promise<void> {
  const { pgbackrest, data, tablespaces, owner, source, signal, niceness, onProgress } = options;
  const { backup } = source.plan;
  for (const directory of [data, tablespaces]) {
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { mode: 0o700 });
    await chmod(directory, 0o700);
    if (owner !== undefined) await chown(directory, owner.uid, owner.gid);
  }
  const totalBytes = backup.databaseBytes;
  onProgress({ kind: "files", doneBytes: 0, totalBytes });
  await pgbackrest.command(
    "restoring the backup",
    [
      `--pg1-path=${data}`,
      `--set=${backup.label}`,
      "--type=none",
      `--tablespace-map-all=${tablespaces}`,
      "--log-level-console=detail",
      "restore",
    ],
    {
      signal,
      ...(niceness === undefined ? {} : { niceness }),
      onOutput: (chunk) => {
        const percent = parsePercent(chunk);
        if (percent !== null)
          onProgress({ kind: "files", doneBytes: Math.round((totalBytes * percent) / 100), totalBytes });
      },
    },
  );
}

export type ReplayFromArchiveOptions = Pick<
  RestoreDataOptions,
  "config" | "stanza" | "conf" | "binDir" | "osUser" | "owner" | "data" | "logFile" | "signal"
> & {
  readonly niceness?: number | undefined;
  readonly onLsn: (lsn: string) => void;
  readonly work?: ((client: ReplayClient) => Promise<void>) | undefined;
};

/** Up to the target, or the end of the plan's last segment. */
export function replayFromArchive(
  options: ReplayFromArchiveOptions,
  { timeline, lastSegment }: Pick<RestorePlan, "timeline" | "lastSegment">,
  listing: ArchiveListing,
  target: ReplayTarget,
): Promise<void> {
  const { config, stanza, conf, data, onLsn, work } = options;
  const replay = {
    binDir: options.binDir,
    data,
    owner: options.owner,
    osUser: options.osUser,
    getScript: getScript(config, stanza, conf, data, listing.histories),
    timeline,
    target,
    endLsn: (segmentNumber(lastSegment, defaultSegmentBytes) + 1n) * BigInt(defaultSegmentBytes),
    logFile: options.logFile,
    signal: options.signal,
    niceness: options.niceness,
    onProgress: onLsn,
  };
  return replayArchive(replay, work);
}

export async function restoreData(options: RestoreDataOptions): Promise<void> {
  const { source, onProgress } = options;
  const { plan, listing } = source;
  await restoreFiles(options);
  const onLsn = (lsn: string): void => onProgress({ kind: "replay", lsn });
  const replay = (target: ReplayTarget): Promise<void> =>
    replayFromArchive({ ...options, onLsn }, plan, listing, target);
  try {
    await replay(plan.target);
  } catch (error) {
    // Nothing was committed between the asked moment and the end of the archive: its end is that moment.
    const early = /before configured recovery target was reached/.test(messageOf(error));
    if (!early || plan.target.kind !== "time") throw error;
    await replay({ kind: "latest" });
  }
}
