/** Holes in the archive: when the leader looks, who hears of them, which backup closes them, when the archiver is woken. */
import { test } from "tap";
import { followerStatus, leaderStatus } from "../../orchestrator/test/statuses.ts";
import {
  type CheckPlan,
  closesGap,
  type Gap,
  gapNow,
  isCheckDue,
  noPlan,
  planAfterCheck,
  planAgain,
} from "../src/backup/archive-gap.ts";
import { type ArchiverFacts, notWoken, wakeStep } from "../src/backup/archiver-wake.ts";
import type { BackupReport } from "../src/backup/backup-report.ts";
import { dueBackup } from "../src/backup/backup-schedule.ts";
import type { Backup } from "../src/backup/repository-info.ts";
import { gapOfLeader, newestSeenMs } from "../src/backup/seen-nodes.ts";
import { testReport } from "./backup-config.ts";

const settleMs = 10_000;
const segment = (number: number, timeline = 2): string =>
  `${timeline.toString(16).toUpperCase().padStart(8, "0")}00000000${number.toString(16).toUpperCase().padStart(8, "0")}`;
const gap = (number: number, sinceMs = 1000): Gap => ({ segment: segment(number), sinceMs });

function backup(walStart: string, startedAtMs: number): Backup {
  return {
    label: "20261115-010005F",
    type: "full",
    startedAtMs,
    stoppedAtMs: startedAtMs + 5000,
    walStart,
    walStop: walStart,
    lsnStart: "0/5000028",
    lsnStop: "0/5000120",
    databaseBytes: 1000,
    repositoryBytes: 100,
    damaged: false,
    systemIdentifier: "7000",
  };
}

test("a backup closes a gap when it begins after it in the log", async (t) => {
  t.equal(closesGap({ walStart: segment(7) }, gap(6)), true);
  t.equal(closesGap({ walStart: segment(6) }, gap(6)), false, "its own first segment is lost");
  t.equal(closesGap({ walStart: segment(5) }, gap(6)), false);
  t.equal(closesGap({ walStart: segment(7, 9) }, gap(6)), true, "on a later timeline");
  t.equal(closesGap({ walStart: "" }, gap(6)), false);
});

test("a gap makes a differential backup due, whatever the clocks say", async (t) => {
  const schedule = { full: "0 1 * * 0", diff: null, incr: null };
  const nowMs = Date.parse("2026-11-15T02:00:00Z");
  const before = backup(segment(5), nowMs - 60_000);
  const due = (backups: readonly Backup[], hole: Gap) => dueBackup({ schedule, backups, nowMs, gap: hole });
  const late = gap(6, nowMs - 3_600_000);
  t.match(due([before], late), { type: "diff", sinceMs: late.sinceMs, reason: /gap/ }, "an old clock");
  t.equal(due([before, backup(segment(8), nowMs - 7_200_000)], late), null, "closed, by an older clock yet");
  t.match(due([before, { ...backup(segment(8), nowMs), damaged: true }], late), { type: "diff" });
});

test("the same gap keeps its time, another one has its own", async (t) => {
  t.equal(gapNow(null, undefined, 5), null);
  t.same(gapNow(null, segment(6), 5), gap(6, 5));
  t.same(gapNow(gap(6, 5), segment(6), 9), gap(6, 5));
  t.same(gapNow(gap(6, 5), segment(9), 9), gap(9, 9));
  t.equal(gapNow(gap(6, 5), undefined, 9), null);
});

const after = (before: CheckPlan, missing: readonly string[], lost: readonly string[], nowMs: number) =>
  planAfterCheck({ before, missing, lost, nowMs, settleMs });

test("checks follow what happens, not only the clock", async (t) => {
  const old = { walStart: segment(4) };
  const calm = after(noPlan, [], [], 0);
  t.equal(isCheckDue({ plan: calm, waitingSegments: 0, newest: old, nowMs: 599_999 }), false);
  t.equal(isCheckDue({ plan: calm, waitingSegments: 0, newest: old, nowMs: 600_000 }), true);
  t.test("what was marked is followed up as soon as it is archived", async (t) => {
    const plan = after(noPlan, [segment(5), segment(6)], [], 0);
    t.equal(isCheckDue({ plan, waitingSegments: 2, newest: old, nowMs: 2000 }), false);
    t.equal(isCheckDue({ plan, waitingSegments: 0, newest: old, nowMs: 2000 }), true);
    t.equal(isCheckDue({ plan, waitingSegments: 2, newest: old, nowMs: settleMs }), true);
  });
  t.test("the backup that closes the gap ends it, also when all else was archived before", async (t) => {
    const plan = after(noPlan, [segment(6)], [segment(6)], 0);
    t.same(plan.gap, gap(6, 0));
    t.equal(isCheckDue({ plan, waitingSegments: 0, newest: old, nowMs: 20_000 }), false, "nothing to see");
    const newest = { walStart: segment(9) };
    t.equal(isCheckDue({ plan, waitingSegments: 0, newest, nowMs: 20_000 }), true, "there is the backup");
    t.equal(after(plan, [], [], 20_000).gap, null);
    const again = after(plan, [segment(12)], [segment(12)], 20_000);
    t.same(again.gap, gap(12, 20_000), "more was lost meanwhile");
    t.equal(isCheckDue({ plan: again, waitingSegments: 0, newest, nowMs: 22_000 }), false);
  });
  t.same(planAgain(after(noPlan, [segment(6)], [segment(6)], 7), 50), {
    atMs: 600_050,
    repairing: false,
    gap: gap(6, 7),
  });
});

const report = (change: Partial<BackupReport>): string => JSON.stringify(testReport(change));

test("what the other nodes know: the leader of a gap, anybody of a newer backup", async (t) => {
  const since = "2026-11-15T01:30:00.000Z";
  const archive = {
    lastArchived: null,
    lastArchivedAt: null,
    waitingSegments: 0,
    waitingBytes: 0,
    oldestWaitingAt: null,
    gap: segment(6),
  };
  const alarms = [{ code: "archive_gap", message: "", todo: "", since }];
  const leader = { ...leaderStatus("n1"), backup: report({ archive, alarms }) };
  t.same(gapOfLeader([leader]), gap(6, Date.parse(since)));
  t.equal(gapOfLeader([{ ...leader, state: "follower" }]), null, "another node's word is old");
  t.equal(gapOfLeader([{ ...leader, backup: report({}) }]), null);
  t.equal(newestSeenMs([leader]), Number.NEGATIVE_INFINITY);
  const newest = {
    label: "F",
    type: "full",
    stoppedAt: since,
    databaseBytes: 1,
    repositoryBytes: 1,
  } as const;
  const repository = { seenAt: since, count: 1, oldest: newest, newest };
  const follower = { ...followerStatus("n2", "n1"), backup: report({ repository }) };
  t.equal(newestSeenMs([leader, follower]), Date.parse(since));
});

test("an archiver that sleeps over work is woken, less and less often when it doesn't help", async (t) => {
  const failed = { waitingSegments: 3, lastArchivedAtMs: 1000, lastFailedAtMs: 2000 };
  const wakes = (facts: ArchiverFacts, nowMs: number) => wakeStep(notWoken, facts, nowMs).wake;
  t.equal(wakes(failed, 7000), true);
  t.equal(wakes(failed, 6999), false, "it has just tried");
  t.equal(wakes({ ...failed, waitingSegments: 0 }, 7000), false, "nothing waits");
  t.equal(wakes({ ...failed, lastArchivedAtMs: 3000 }, 9000), false, "it works again");
  t.equal(wakes({ ...failed, lastArchivedAtMs: null }, 7000), true);
  t.equal(wakes({ ...failed, lastFailedAtMs: null }, 7000), false, "it never failed");

  const pauses: number[] = [];
  let state = notWoken;
  let lastFailedAtMs = 0;
  for (let nowMs = 0; nowMs <= 400_000; nowMs += 1000) {
    const step = wakeStep(state, { ...failed, lastFailedAtMs, lastArchivedAtMs: null }, nowMs);
    state = step.state;
    if (!step.wake) continue;
    pauses.push(nowMs - lastFailedAtMs);
    lastFailedAtMs = nowMs;
  }
  t.same(pauses.slice(0, 6), [5000, 10_000, 20_000, 40_000, 60_000, 60_000]);
  const works = { ...failed, lastArchivedAtMs: 500_000, lastFailedAtMs };
  t.same(wakeStep(state, works, 500_000).state, notWoken, "a success begins anew");
});
