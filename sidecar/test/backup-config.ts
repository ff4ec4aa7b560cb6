/** A configuration of backups with only what a test cares for. */
import { type BackupConfig, backupConfigSchema } from "../src/backup/backup-config.ts";

export function testBackupConfig(change: object = {}): BackupConfig {
  return backupConfigSchema.parse({
    pgbackrest: "/usr/bin/pgbackrest",
    repository: { type: "posix", path: "/srv/backup" },
    cipherKeyFile: "/srv/key",
    ...change,
  });
}
