/**
 * A node's data that is outdated, while no node has the log any more that it lacks, is brought up to date from the
 * archive: nothing but log is fetched, however large the data.
 *
 * What is on disk outside of pg_wal is committed (extension, page gate) and so is everything in the archive (patch 0011). The
 * node's own log is not used: its end may never have been committed. So the archive must hold all log from where
 * recovery begins to beyond the end of the node's own.
 */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "@quorate/common";
import {
  type CloneProgressHandler,
  type NodeRestoreOptions,
  replayPlace,
  replayProgress,
} from "./node-restore.ts";
import type { ArchiveListing } from "./repository-info.ts";
import { lookIntoArchive, replayFromArchive } from "./restore-data.ts";
import {
  checkRange,
  defaultSegmentBytes,
  lsnOf,
  segmentInHistory,
  segmentNumber,
  type Timeline,
} from "./wal-archive.ts";

/** Of pg_controldata's report, what says from where on log is needed. */
export type ControlData = {
  readonly systemIdentifier: string;
  readonly state: string;
  readonly redoLsn: bigint;
  /** Null: it was a primary last, which would begin with its own log. */
  readonly minRecovery: { readonly lsn: bigint; readonly timeline: number } | null;
};

export type CatchUpPlan =
  | {
      readonly kind: "possible";
      readonly timeline: number;
      readonly firstSegment: string;
      readonly lastSegment: string;
      readonly segments: number;
    }
  | { readonly kind: "impossible"; readonly reason: string };

export type CatchUpInput = {
  readonly control: ControlData;
  /** Where the node's own log ends, committed or not. */
  readonly endLsn: bigint;
  readonly listing: ArchiveListing;
  /** Of the archive's newest timeline. */
  readonly history: readonly Timeline[];
  readonly segmentBytes: number;
};

/** Undefined: that is no report of pg_controldata. Pure. */
export function parseControlData(text: string): ControlData | undefined {
  const field = (name: string): string | undefined =>
    new RegExp(`^${name}:\\s+(.+)$`, "m").exec(text)?.[1]?.trim();
  const systemIdentifier = field("Database system identifier");
  const state = field("Database cluster state");
  const redo = field("Latest checkpoint's REDO location");
  const end = field("Minimum recovery ending location");
  const timeline = Number(field("Min recovery ending loc's timeline"));
  if (systemIdentifier === undefined || state === undefined || redo === undefined || end === undefined)
    return undefined;
  const lsn = lsnOf(end);
  return {
    systemIdentifier,
    state,
    redoLsn: lsnOf(redo),
    minRecovery: lsn === 0n || !Number.isInteger(timeline) ? null : { lsn, timeline },
  };
}

/** Pure. */
export function planCatchUp(input: CatchUpInput): CatchUpPlan {
  const { control, endLsn, listing, history, segmentBytes } = input;
  const impossible = (reason: string): CatchUpPlan => ({ kind: "impossible", reason });
  if (!/^(?:in archive recovery|shut down in recovery)$/.test(control.state) || control.minRecovery === null)
    return impossible(`its data is that of a server that is "${control.state}"`);
  const { lsn, timeline } = control.minRecovery;
  const own = history.find(({ id }) => id === timeline);
  if (own === undefined || (own.endLsn !== null && own.endLsn < lsn))
    return impossible(`the archive continues another history than timeline ${timeline}`);
  const number = (at: bigint): bigint => at / BigInt(segmentBytes);
  const firstSegment = segmentInHistory(history, number(control.redoLsn), segmentBytes);
  const { missing, lastWhole } = checkRange(listing, history, firstSegment, segmentBytes);
  if (lastWhole === null || missing.length > 0)
    return impossible(`the archive lacks ${missing[0] ?? firstSegment}`);
  const last = segmentNumber(lastWhole, segmentBytes);
  const ownEnd = endLsn > lsn ? endLsn : lsn;
  if (last <= number(ownEnd))
    return impossible(`the archive ends with ${lastWhole}, no later than its own log`);
  return {
    kind: "possible",
    timeline: history.at(-1)?.id ?? timeline,
    firstSegment,
    lastSegment: lastWhole,
    segments: Number(last - number(control.redoLsn) + 1n),
  };
}

/** The log, and what hangs on it: slots whose log is gone, and what the last process left behind. */
async function dropOwnLog(data: string): Promise<void> {
  const log = join(data, "pg_wal");
  for (const entry of await readdir(log, { withFileTypes: true }))
    if (entry.isFile()) await rm(join(log, entry.name));
  for (const directory of [join(log, "archive_status"), join(data, "pg_replslot")])
    for (const name of await readdir(directory))
      await rm(join(directory, name), { recursive: true, force: true });
  for (const name of ["postmaster.pid", "postmaster.opts", "backup_label"])
    await rm(join(data, name), { force: true });
}

export type CatchUp =
  | { readonly kind: "caughtUp"; readonly segments: number }
  /** The data may have been changed: nothing but a new copy helps. */
  | { readonly kind: "impossible"; readonly reason: string };

export type OutdatedData = {
  readonly directory: string;
  readonly control: ControlData;
  readonly endLsn: bigint;
};

/** Throws only when it is aborted. `systemIdentifier`: of the cluster, null if nobody could be asked. */
export async function catchUpFromArchive(
  options: NodeRestoreOptions,
  outdated: OutdatedData,
  systemIdentifier: string | null,
  onProgress: CloneProgressHandler,
  signal: AbortSignal,
): Promise<CatchUp> {
  const { pgbackrest, logger } = options;
  const { directory: data, control, endLsn } = outdated;
  try {
    if (systemIdentifier === null || control.systemIdentifier !== systemIdentifier)
      return { kind: "impossible", reason: "the data isn't known to be of this cluster" };
    const { listing, history } = await lookIntoArchive(pgbackrest, await pgbackrest.info());
    const plan = planCatchUp({ control, endLsn, listing, history, segmentBytes: defaultSegmentBytes });
    if (plan.kind === "impossible") return plan;
    logger.info(
      { first: plan.firstSegment, last: plan.lastSegment, segments: plan.segments },
      "bringing the data up to date from the archive",
    );
    await dropOwnLog(data);
    await replayFromArchive(
      {
        ...replayPlace(options),
        data,
        signal,
        onLsn: (lsn) => replayProgress(plan, lsn, onProgress),
      },
      plan,
      listing,
      { kind: "standby" },
    );
    return { kind: "caughtUp", segments: plan.segments };
  } catch (error) {
    if (signal.aborted) throw error;
    return { kind: "impossible", reason: messageOf(error) };
  }
}
