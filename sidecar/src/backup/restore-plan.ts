/** Which backup and which WAL a restore uses. Pure. */
import { sidecarErrors } from "../error-codes.ts";
import type { ReplayTarget } from "./archive-replay.ts";
import type { ArchiveListing, Backup } from "./repository-info.ts";
import {
  type ArchiveRange,
  checkRange,
  lsnOf,
  newestTimeline,
  segmentName,
  segmentNumber,
  type Timeline,
  timelineOf,
} from "./wal-archive.ts";

export type RestorePlan = {
  readonly backup: Backup;
  readonly timeline: number;
  /** In order; the first is the one in which the backup began. */
  readonly firstSegment: string;
  readonly lastSegment: string;
  readonly segments: number;
  readonly target: ReplayTarget;
  /** Until when the archive reaches. */
  readonly archivedUntilMs: number;
  /** Missing beyond what is used: later moments can't be reached. */
  readonly missing: readonly string[];
};

export type PlanInput = {
  readonly backups: readonly Backup[];
  readonly listing: ArchiveListing;
  /** Of the newest timeline. */
  readonly history: readonly Timeline[];
  readonly target: ReplayTarget;
  readonly segmentBytes: number;
  /** Only this one may be used. */
  readonly label?: string;
};

/** 2026-11-21 13:05:31+00, with or without T, fractions and zone (default: UTC); undefined: no time. */
export function parseTime(text: string): number | undefined {
  const match = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?: ?(Z|[+-]\d\d(?::?\d\d)?))?$/.exec(
    text.trim(),
  );
  if (match === null) return undefined;
  const zone = match[3] ?? "Z";
  const full = zone === "Z" ? "Z" : `${zone.slice(0, 3)}:${zone.slice(3).replace(":", "") || "00"}`;
  const time = match[2]?.length === 5 ? `${match[2]}:00` : match[2];
  const value = Date.parse(`${match[1]}T${time}${full}`);
  return Number.isNaN(value) ? undefined : value;
}

function reaches(backup: Backup, target: ReplayTarget): boolean {
  switch (target.kind) {
    case "standby":
    case "latest":
    case "name":
      return true;
    case "time":
      return backup.stoppedAtMs <= (parseTime(target.time) ?? Number.NEGATIVE_INFINITY);
    case "lsn":
      return lsnOf(backup.lsnStop) <= lsnOf(target.lsn);
  }
}

/** A backup that was made on a timeline outside of the history can't be used for it. */
function inHistory(backup: Backup, history: readonly Timeline[]): boolean {
  const own = history.find(({ id }) => id === timelineOf(backup.walStop));
  return own !== undefined && (own.endLsn === null || lsnOf(backup.lsnStop) <= own.endLsn);
}

const when = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;

export function planRestore(input: PlanInput): RestorePlan {
  const { listing, history, target, segmentBytes, label } = input;
  const timeline = newestTimeline(listing);
  const backups = input.backups.filter(
    (each) => !each.damaged && (label === undefined || each.label === label),
  );
  const usable = backups.filter((each) => inHistory(each, history));
  if (timeline === undefined || usable.length === 0)
    throw sidecarErrors.error(
      "nothing_to_restore",
      label === undefined
        ? 'the repository holds no backup that can be restored: "quorate status" shows when the next one is made'
        : `there is no backup ${label} that can be restored: "quorate backup list" shows what there is`,
    );
  const fitting = usable.filter((each) => reaches(each, target));
  const backup = fitting.at(-1);
  const oldest = usable[0] as Backup;
  if (backup === undefined)
    throw sidecarErrors.error(
      "nothing_to_restore",
      `the oldest backup ends at ${when(oldest.stoppedAtMs)} (${oldest.lsnStop}), after the asked target: choose a later one`,
    );
  const range = checkRange(listing, history, backup.walStart, segmentBytes);
  const lastSegment = lastNeeded(range, backup, input);
  const archivedUntilMs = Math.max(
    backup.stoppedAtMs,
    listing.segments.find(({ name }) => name === lastSegment)?.archivedAtMs ?? 0,
  );
  return {
    backup,
    timeline,
    firstSegment: backup.walStart,
    lastSegment,
    segments: Number(
      segmentNumber(lastSegment, segmentBytes) - segmentNumber(backup.walStart, segmentBytes) + 1n,
    ),
    target,
    archivedUntilMs,
    missing: range.missing,
  };
}

function lastNeeded(range: ArchiveRange, backup: Backup, input: PlanInput): string {
  const { history, listing, segmentBytes, target } = input;
  const gap = (what: string): Error =>
    sidecarErrors.error(
      "archive_gap",
      `the archive lacks ${range.missing[0]}, which is needed to replay from backup ${backup.label} ${what}: ` +
        "choose a target before the gap, or after a newer backup",
    );
  const number = (name: string): bigint => segmentNumber(name, segmentBytes);
  if (range.lastWhole === null || number(range.lastWhole) < number(backup.walStop))
    throw gap("to its own end");
  const lastWhole = number(range.lastWhole);
  const inRange = (name: string): boolean => number(name) <= lastWhole;
  if (target.kind === "lsn") {
    const needed = lsnOf(target.lsn) / BigInt(segmentBytes);
    if (needed > number(range.lastWhole)) {
      if (range.missing.length > 0) throw gap(`to ${target.lsn}`);
      throw sidecarErrors.error(
        "nothing_to_restore",
        `the archive ends with segment ${range.lastWhole}, before ${target.lsn}: choose an earlier target, or wait until it is archived`,
      );
    }
    const id = history.find(
      ({ endLsn }) => endLsn === null || endLsn >= (needed + 1n) * BigInt(segmentBytes),
    )?.id;
    return segmentName(id ?? timelineOf(range.lastWhole), needed, segmentBytes);
  }
  if (target.kind === "time") {
    const untilMs = Math.max(
      backup.stoppedAtMs,
      ...listing.segments.filter(({ name }) => inRange(name)).map(({ archivedAtMs }) => archivedAtMs),
    );
    const askedMs = parseTime(target.time) ?? 0;
    if (askedMs <= untilMs) return range.lastWhole;
    if (range.missing.length > 0) throw gap(`to ${target.time}`);
    throw sidecarErrors.error(
      "nothing_to_restore",
      `the archive reaches until ${when(untilMs)}, before ${target.time}: choose an earlier target, or wait until it is archived`,
    );
  }
  // "latest" must not silently mean "until the gap": a newer backup would have been chosen if there were one.
  if (range.missing.length > 0) throw gap("to the end of the archive");
  return range.lastWhole;
}
