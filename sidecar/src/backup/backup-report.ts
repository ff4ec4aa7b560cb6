/** What a node tells about backups in its status (NodeStatus.backup), as JSON; and the picture that all of them make. */
import { z } from "zod";
import type { Backup } from "./repository-info.ts";

const problemSchema = z.object({ code: z.string(), message: z.string(), todo: z.string() });
/** `at`: when it ended; `began`: unknown to older versions. */
const runSchema = z.object({
  at: z.string(),
  began: z.string().optional(),
  ok: z.boolean(),
  what: z.string(),
  message: z.string(),
});
const backupSchema = z.object({
  label: z.string(),
  type: z.enum(["full", "diff", "incr"]),
  stoppedAt: z.string(),
  databaseBytes: z.number(),
  repositoryBytes: z.number(),
});

export const backupReportSchema = z.object({
  /** Where other nodes' backups find this Postgres. */
  place: z.object({
    dataDirectory: z.string(),
    socketDirectory: z.string(),
    tlsPort: z.number().nullable(),
    /** Of its pgBackRest. */
    conf: z.string().nullable().default(null),
    /** False: the repository lies on another node, which makes the backups. */
    backsUp: z.boolean().default(true),
  }),
  /** A backup, restore test or verification that runs here now. */
  running: z.object({ what: z.string(), since: z.string(), percent: z.number().nullable() }).nullable(),
  /** The last attempt of this node at a backup. */
  lastRun: runSchema.extend({ problem: problemSchema.nullable() }).nullable(),
  repository: z
    .object({
      seenAt: z.string(),
      count: z.number(),
      oldest: backupSchema.nullable(),
      newest: backupSchema.nullable(),
    })
    .nullable(),
  /** Only on the leader. */
  archive: z
    .object({
      lastArchived: z.string().nullable(),
      lastArchivedAt: z.string().nullable(),
      waitingSegments: z.number(),
      waitingBytes: z.number(),
      oldestWaitingAt: z.string().nullable(),
      /** The first missing segment after the newest backup. */
      gap: z.string().nullable(),
    })
    .nullable(),
  restoreTest: runSchema.nullable(),
  verify: runSchema.nullable(),
  alarms: z.array(problemSchema.extend({ since: z.string() })),
});

export type BackupReport = z.infer<typeof backupReportSchema>;
export type ReportedProblem = z.infer<typeof problemSchema>;
export type Alarm = BackupReport["alarms"][number];

/** For a report. */
export function shownBackup(backup: Backup | undefined): z.infer<typeof backupSchema> | null {
  if (backup === undefined) return null;
  const { label, type, stoppedAtMs, databaseBytes, repositoryBytes } = backup;
  return { label, type, stoppedAt: new Date(stoppedAtMs).toISOString(), databaseBytes, repositoryBytes };
}

/** Null: none, or of another version. */
export function readReport(text: string | undefined): BackupReport | null {
  if (text === undefined || text === "") return null;
  try {
    const parsed = backupReportSchema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

export type BackupPicture = {
  readonly last: NonNullable<BackupReport["repository"]>["newest"];
  readonly count: number;
  readonly running: { readonly node: string; readonly what: string; readonly percent: number | null } | null;
  readonly archive: BackupReport["archive"];
  /** One can restore to any moment between. */
  readonly restorable: { readonly from: string; readonly to: string } | null;
  readonly restoreTest: BackupReport["restoreTest"];
  readonly verify: BackupReport["verify"];
  readonly alarms: readonly (Alarm & { readonly node: string })[];
};

type Reported = { readonly node: string; readonly report: BackupReport | null };

function newest<T>(items: readonly T[], at: (item: T) => string): T | null {
  return items.reduce<T | null>((best, item) => (best === null || at(item) > at(best) ? item : best), null);
}

/** Null: no node has anything to do with backups. */
export function backupPicture(reported: readonly Reported[]): BackupPicture | null {
  const heard = reported.flatMap(({ node, report }) => (report === null ? [] : [{ node, report }]));
  if (heard.length === 0) return null;
  const repositories = heard.flatMap(({ report }) => (report.repository === null ? [] : [report.repository]));
  const repository = newest(repositories, ({ seenAt }) => seenAt);
  const archive = heard.map(({ report }) => report.archive).find((each) => each !== null) ?? null;
  const run = heard.find(({ report }) => report.running !== null);
  const oldest = repository?.oldest ?? null;
  const until = [repository?.newest?.stoppedAt, archive?.lastArchivedAt].filter(
    (at) => typeof at === "string",
  );
  const tests = heard.flatMap(({ report }) => (report.restoreTest === null ? [] : [report.restoreTest]));
  const verifications = heard.flatMap(({ report }) => (report.verify === null ? [] : [report.verify]));
  return {
    last: repository?.newest ?? null,
    count: repository?.count ?? 0,
    running:
      run === undefined || run.report.running === null
        ? null
        : { node: run.node, what: run.report.running.what, percent: run.report.running.percent },
    archive,
    restorable:
      oldest === null ? null : { from: oldest.stoppedAt, to: until.sort().at(-1) ?? oldest.stoppedAt },
    restoreTest: newest(tests, ({ at }) => at),
    verify: newest(verifications, ({ at }) => at),
    alarms: heard.flatMap(({ node, report }) => report.alarms.map((alarm) => ({ ...alarm, node }))),
  };
}

export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

function ago(at: string, nowMs: number): string {
  const seconds = Math.max(0, Math.round((nowMs - Date.parse(at)) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} days ago`;
}

const shortTime = (at: string): string => at.slice(0, 19).replace("T", " ");

/** Lines for people. */
export function formatBackupPicture(picture: BackupPicture, nowMs: number): string[] {
  const { last, running, archive, restorable, restoreTest, verify, alarms } = picture;
  const now =
    running === null
      ? ""
      : `; ${running.node}: ${running.what}${running.percent === null ? "" : ` ${Math.round(running.percent)} %`}`;
  const lines = [
    last === null
      ? `backup: none yet${now}`
      : `backup: ${last.type} ${last.label}, ${ago(last.stoppedAt, nowMs)}, ` +
        `${formatBytes(last.databaseBytes)} (${formatBytes(last.repositoryBytes)} in the repository)${now}`,
  ];
  if (archive !== null)
    lines.push(
      `archive: ${archive.lastArchived ?? "nothing yet"}` +
        (archive.lastArchivedAt === null ? "" : `, ${ago(archive.lastArchivedAt, nowMs)}`) +
        `, ${archive.waitingSegments} segments (${formatBytes(archive.waitingBytes)}) wait` +
        (archive.gap === null ? "" : `; GAP at ${archive.gap}`),
    );
  if (restorable !== null)
    lines.push(`restorable: ${shortTime(restorable.from)} … ${shortTime(restorable.to)} UTC`);
  for (const [name, run] of [
    ["restore test", restoreTest],
    ["verify", verify],
  ] as const)
    if (run !== null)
      lines.push(`${name}: ${run.ok ? "ok" : "FAILED"}, ${ago(run.at, nowMs)}: ${run.message}`);
  for (const alarm of alarms)
    lines.push(
      `ALARM ${alarm.code} (${alarm.node}, since ${shortTime(alarm.since)}): ${alarm.message}; ${alarm.todo}`,
    );
  return lines;
}
