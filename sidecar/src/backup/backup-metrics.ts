/** Backups in /metrics; the names are documented in docs/backup.md. */
import { Gauge, type Registry } from "prom-client";
import type { BackupReport } from "./backup-report.ts";

const seconds = (at: string | null | undefined): number =>
  at === null || at === undefined ? 0 : Date.parse(at) / 1000;

export function registerBackupMetrics(registry: Registry, report: () => BackupReport): void {
  const registers = [registry];
  const values: readonly (readonly [string, string, (report: BackupReport) => number])[] = [
    ["quorate_backups", "Backups in the repository", (r) => r.repository?.count ?? 0],
    [
      "quorate_backup_newest_timestamp_seconds",
      "When the newest backup ended; 0: there is none",
      (r) => seconds(r.repository?.newest?.stoppedAt),
    ],
    [
      "quorate_backup_oldest_timestamp_seconds",
      "From when on one can restore; 0: not at all",
      (r) => seconds(r.repository?.oldest?.stoppedAt),
    ],
    [
      "quorate_backup_running",
      "1 while this node makes or tests a backup",
      (r) => Number(r.running !== null),
    ],
    [
      "quorate_backup_last_attempt_ok",
      "1 if this node's last attempt at a backup succeeded, 0 if not, -1 if there was none",
      (r) => (r.lastRun === null ? -1 : Number(r.lastRun.ok)),
    ],
    [
      "quorate_restore_test_ok",
      "1 if this node's last restore test succeeded, 0 if not, -1 if there was none",
      (r) => (r.restoreTest === null ? -1 : Number(r.restoreTest.ok)),
    ],
    [
      "quorate_verify_ok",
      "1 if this node's last verification of the repository found nothing, 0 if it did, -1 if there was none",
      (r) => (r.verify === null ? -1 : Number(r.verify.ok)),
    ],
    [
      "quorate_archive_waiting_bytes",
      "WAL that waits to be archived, on the leader",
      (r) => r.archive?.waitingBytes ?? 0,
    ],
    [
      "quorate_archive_last_timestamp_seconds",
      "When WAL was archived last, on the leader; 0: elsewhere",
      (r) => seconds(r.archive?.lastArchivedAt),
    ],
  ];
  const gauges = values.map(([name, help, value]) => ({
    gauge: new Gauge({ name, help, registers }),
    value,
  }));
  const alarms = new Gauge({
    name: "quorate_backup_alarm",
    help: "1 for each alarm that is raised, by its code",
    labelNames: ["code"],
    registers,
  });
  // The first collects for all: one report for a scrape.
  const first = gauges[0];
  if (first === undefined) return;
  Object.assign(first.gauge, {
    collect: () => {
      const now = report();
      for (const { gauge, value } of gauges) gauge.set(value(now));
      alarms.reset();
      for (const { code } of now.alarms) alarms.set({ code }, 1);
    },
  });
}
