/** When the leader looks through the archive, and what a hole in it means. Pure. */
import type { BackupReport } from "./backup-report.ts";
import type { Backup } from "./repository-info.ts";
import { defaultSegmentBytes, segmentNumber } from "./wal-archive.ts";

/** The first segment that is lost to the archive and that restores from the newest backup would need. */
export type Gap = { readonly segment: string; readonly sinceMs: number };

/** Whether a backup begins after the gap, so that restores from it don't need what is lost. By the log, not by clocks. */
export function closesGap({ walStart }: Pick<Backup, "walStart">, { segment }: Gap): boolean {
  return (
    walStart !== "" &&
    segmentNumber(walStart, defaultSegmentBytes) > segmentNumber(segment, defaultSegmentBytes)
  );
}

/** `first`: what the check found. Another segment than before is another gap, and wants another backup. */
export function gapNow(before: Gap | null, first: string | undefined, nowMs: number): Gap | null {
  if (first === undefined) return null;
  return before?.segment === first ? before : { segment: first, sinceMs: nowMs };
}

/** As a leader tells it; null: it tells of none. */
export function reportedGap(report: BackupReport | null): Gap | null {
  const segment = report?.archive?.gap ?? null;
  const alarm = report?.alarms.find(({ code }) => code === "archive_gap");
  return segment === null || alarm === undefined ? null : { segment, sinceMs: Date.parse(alarm.since) };
}

const gapCheckIntervalMs = 600_000;

/** What the last check left to be done. */
export type CheckPlan = {
  readonly atMs: number;
  /** Segments are being archived that were missing; more may follow. */
  readonly repairing: boolean;
  readonly gap: Gap | null;
};

export const noPlan: CheckPlan = { atMs: 0, repairing: false, gap: null };

export type CheckInput = {
  readonly plan: CheckPlan;
  readonly waitingSegments: number;
  /** As known without asking anew. */
  readonly newest: Pick<Backup, "walStart"> | undefined;
  readonly nowMs: number;
};

/** At its time; as soon as everything that waited is archived; and as soon as there is a backup that closes the gap. */
export function isCheckDue({ plan, waitingSegments, newest, nowMs }: CheckInput): boolean {
  if (nowMs >= plan.atMs) return true;
  if (plan.repairing && waitingSegments === 0) return true;
  return plan.gap !== null && newest !== undefined && closesGap(newest, plan.gap);
}

export type CheckResult = {
  readonly before: CheckPlan;
  readonly missing: readonly string[];
  readonly lost: readonly string[];
  readonly nowMs: number;
  /** Until what was marked should be archived. */
  readonly settleMs: number;
};

export function planAfterCheck({ before, missing, lost, nowMs, settleMs }: CheckResult): CheckPlan {
  const repairing = missing.length > lost.length;
  return {
    atMs: nowMs + (repairing ? settleMs : gapCheckIntervalMs),
    repairing,
    gap: gapNow(before.gap, lost[0], nowMs),
  };
}

/** Nothing could be found out: what was known stays. */
export function planAgain(before: CheckPlan, nowMs: number): CheckPlan {
  return { atMs: nowMs + gapCheckIntervalMs, repairing: false, gap: before.gap };
}
