/** When which backup is due. Pure: time and what there is come as data. */
import { Cron } from "croner";
import { closesGap, type Gap } from "./archive-gap.ts";
import type { BackupConfig, BackupType } from "./backup-config.ts";
import type { BackupReport } from "./backup-report.ts";
import type { Backup } from "./repository-info.ts";

export type Due = { readonly type: BackupType; readonly sinceMs: number; readonly reason: string };

/** The first run of a schedule after a moment. */
export function nextRunMs(cron: string, afterMs: number): number | null {
  const next = new Cron(cron, { paused: true, timezone: "UTC" }).nextRun(new Date(afterMs));
  return next === null ? null : next.getTime();
}

/** A full backup is as good as a differential one, and either as good as an incremental one. */
const satisfiedBy: Readonly<Record<BackupType, readonly BackupType[]>> = {
  full: ["full"],
  diff: ["full", "diff"],
  incr: ["full", "diff", "incr"],
};

export type ScheduleInput = {
  readonly schedule: BackupConfig["schedule"];
  readonly backups: readonly Backup[];
  readonly nowMs: number;
  /** The archive has a hole after the newest backup: one can't restore to a later moment until there is a new one. */
  readonly gap: Gap | null;
};

/** The most complete backup that is due; null: none. A run that nobody made is made up for, once. */
export function dueBackup({ schedule, backups, nowMs, gap }: ScheduleInput): Due | null {
  const good = backups.filter(({ damaged }) => !damaged);
  if (!good.some(({ type }) => type === "full"))
    return { type: "full", sinceMs: 0, reason: "there is no backup yet" };
  if (gap !== null && !good.some((each) => closesGap(each, gap)))
    return { type: "diff", sinceMs: gap.sinceMs, reason: "the archive has a gap after the last backup" };
  for (const type of ["full", "diff", "incr"] as const) {
    const cron = schedule[type];
    if (cron === null) continue;
    const last = Math.max(
      ...good.filter((each) => satisfiedBy[type].includes(each.type)).map(({ startedAtMs }) => startedAtMs),
    );
    const due = nextRunMs(cron, last);
    if (due !== null && due <= nowMs) return { type, sinceMs: due, reason: `scheduled (${cron})` };
  }
  return null;
}

/** Of a task that isn't a backup, like a restore test: due once per run of its schedule. */
export function isTaskDue(
  cron: string | null,
  lastMs: number | null,
  startMs: number,
  nowMs: number,
): boolean {
  if (cron === null) return false;
  const next = nextRunMs(cron, lastMs ?? startMs);
  return next !== null && next <= nowMs;
}

/** The newest backup is too old when the schedule should have made two since. */
export function isTooOld(
  schedule: BackupConfig["schedule"],
  backups: readonly Backup[],
  nowMs: number,
): boolean {
  const newest = Math.max(...backups.map(({ startedAtMs }) => startedAtMs));
  if (!Number.isFinite(newest)) return false;
  const after = (atMs: number): number | null => {
    const runs = [schedule.full, schedule.diff, schedule.incr].flatMap((cron) => {
      const next = cron === null ? null : nextRunMs(cron, atMs);
      return next === null ? [] : [next];
    });
    return runs.length === 0 ? null : Math.min(...runs);
  };
  const first = after(newest);
  const second = first === null ? null : after(first);
  return second !== null && second <= nowMs;
}

/**
 * A failed attempt needs nobody's attention any more when a later one succeeded, whoever made it: one that began no
 * earlier, also if the failed one took longer to fail. pgBackRest's times are whole seconds.
 */
export function isMadeGood(failed: BackupReport["lastRun"], newest: Pick<Backup, "startedAtMs">): boolean {
  if (failed === null || failed.ok) return false;
  const beganMs = Date.parse(failed.began ?? failed.at);
  return newest.startedAtMs >= Math.floor(beganMs / 1000) * 1000;
}
