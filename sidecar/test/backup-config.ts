/** Configurations and reports of backups with only what a test cares for. */
import { type BackupConfig, backupConfigSchema } from "../src/backup/backup-config.ts";
import type { BackupReport } from "../src/backup/backup-report.ts";

export function testBackupConfig(change: object = {}): BackupConfig {
  return backupConfigSchema.parse({
    pgbackrest: "/usr/bin/pgbackrest",
    repository: { type: "posix", path: "/srv/backup" },
    cipherKeyFile: "/srv/key",
    ...change,
  });
}

export function testReport(change: Partial<BackupReport> = {}): BackupReport {
  return {
    place: { dataDirectory: "/d", socketDirectory: "/s", tlsPort: null, conf: null, backsUp: true },
    running: null,
    lastRun: null,
    repository: null,
    archive: null,
    restoreTest: null,
    verify: null,
    alarms: [],
    ...change,
  };
}
