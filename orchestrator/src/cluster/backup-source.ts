// The backups of a cluster as the CLI reaches them: with a pgBackRest configuration of its own in a temporary
// directory, so that nothing of the cluster's own files is touched.
import { mkdtempSync, rmSync } from "node:fs";
import { chown, mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { postgresUser } from "@quorate/common";
import { type BackupConfig, remoteRepository } from "@quorate/sidecar/backup/backup-config.ts";
import { prepareBackup } from "@quorate/sidecar/backup/backup-environment.ts";
import { Pgbackrest } from "@quorate/sidecar/backup/pgbackrest.ts";
import { type BackupPaths, backupPaths } from "@quorate/sidecar/backup/pgbackrest-conf.ts";
import { loadSidecarConfig, type SidecarConfig } from "@quorate/sidecar/config.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { type OpenCluster, paths } from "./files.ts";

export interface BackupSource {
  readonly config: SidecarConfig & { readonly backup: BackupConfig };
  readonly stanza: string;
  readonly paths: BackupPaths;
  readonly owner: ReturnType<typeof postgresUser>;
  readonly pgbackrest: Pgbackrest;
}

/** The first node that has backups configured and the repository in its reach, as its sidecar.json says. */
export function backupConfigOf(cluster: OpenCluster): BackupSource["config"] {
  const all = cluster.file.nodes.flatMap(({ id }) => {
    const config = loadSidecarConfig(paths.sidecarConfig(cluster.dir, id));
    return config.backup === undefined ? [] : [{ ...config, backup: config.backup }];
  });
  const found = all.find(({ backup, host }) => remoteRepository(backup, host) === null) ?? all[0];
  if (found !== undefined) return found;
  throw orchestratorErrors.error(
    "no_backups",
    `the cluster in ${cluster.dir} makes no backups: add a backup section to each node's sidecar.json (docs/backup.md)`,
  );
}

/** `work` may use the repository; its temporary directory is gone afterwards. */
export async function withBackupSource<T>(
  cluster: OpenCluster,
  work: (source: BackupSource) => Promise<T>,
): Promise<T> {
  const config = backupConfigOf(cluster);
  const owner = postgresUser(config.postgres.osUser);
  const temporary = mkdtempSync(path.join(tmpdir(), "quorate-backup-"));
  try {
    if (owner !== undefined) await chown(temporary, owner.uid, owner.gid);
    const own = path.join(temporary, "node");
    await mkdir(own);
    if (owner !== undefined) await chown(own, owner.uid, owner.gid);
    const stanza = config.backup.stanza ?? config.cluster;
    const at = backupPaths(own, config.backup, config.host);
    const postgres = {
      dataDirectory: path.join(config.dir, "data"),
      socketDirectory: path.join(config.dir, "run"),
      port: config.ports.postgres,
    };
    prepareBackup({ config, paths: at, stanza, postgres, owner });
    const pgbackrest = new Pgbackrest({
      config: config.backup,
      stanza,
      paths: at,
      host: config.host,
      owner,
    });
    return await work({ config, stanza, paths: at, owner, pgbackrest });
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}
