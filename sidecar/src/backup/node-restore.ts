/** A node's data directory from the newest backup and the archive: no load on the leader but the stream at the end. */
import { type Logger, messageOf } from "@quorate/common";
import type { SidecarConfig } from "../config.ts";
import type { PostgresOwner } from "../environment.ts";
import type { NodePaths } from "../paths.ts";
import type { BackupConfig } from "./backup-config.ts";
import type { Pgbackrest } from "./pgbackrest.ts";
import type { BackupPaths } from "./pgbackrest-conf.ts";
import { lookForRestore, restoreData } from "./restore-data.ts";
import { defaultSegmentBytes, lsnOf, segmentNumber } from "./wal-archive.ts";

export type NodeRestoreOptions = {
  readonly config: SidecarConfig & { readonly backup: BackupConfig };
  readonly stanza: string;
  readonly paths: BackupPaths;
  readonly nodePaths: NodePaths;
  readonly owner: PostgresOwner;
  readonly pgbackrest: Pgbackrest;
  readonly logger: Logger;
};

/** First the files of the backup, then the WAL in the archive. */
export type CloneProgressHandler = (
  from: "backup" | "archive",
  progress: { doneBytes: number; totalBytes: number },
) => void;

export type NodeRestore =
  | { readonly kind: "restored"; readonly label: string; readonly segments: number }
  /** There is nothing to restore from, or it failed: the caller should copy from another node. */
  | { readonly kind: "impossible"; readonly reason: string };

function startOf(segment: string): bigint {
  return segmentNumber(segment, defaultSegmentBytes) * BigInt(defaultSegmentBytes);
}

/** What a replay of the archive into this node's data needs, wherever the data lies. */
export function replayPlace({ config, stanza, paths, nodePaths, owner }: NodeRestoreOptions) {
  return {
    config: config.backup,
    stanza,
    conf: paths.conf,
    binDir: config.postgres.binDir,
    osUser: config.postgres.osUser,
    owner,
    logFile: `${nodePaths.log}/restore.log`,
  };
}

export function replayProgress(
  { firstSegment, segments }: { readonly firstSegment: string; readonly segments: number },
  lsn: string,
  onProgress: CloneProgressHandler,
): void {
  const doneBytes = Math.max(0, Number(lsnOf(lsn) - startOf(firstSegment)));
  onProgress("archive", { doneBytes, totalBytes: segments * defaultSegmentBytes });
}

/** Fills `directory`. Throws only when it is aborted. */
export async function restoreNode(
  options: NodeRestoreOptions,
  directory: string,
  systemIdentifier: string | null,
  onProgress: CloneProgressHandler,
  signal: AbortSignal,
): Promise<NodeRestore> {
  const { pgbackrest, logger } = options;
  try {
    const source = await lookForRestore(pgbackrest, { kind: "standby" });
    const { backup, segments } = source.plan;
    if (systemIdentifier === null || backup.systemIdentifier !== systemIdentifier)
      return { kind: "impossible", reason: "the backup isn't known to be of this cluster" };
    logger.info({ backup: backup.label, segments }, "restoring from the backup");
    await restoreData({
      pgbackrest,
      ...replayPlace(options),
      source,
      data: directory,
      tablespaces: `${options.nodePaths.root}/tablespaces`,
      signal,
      onProgress: (progress) => {
        if (progress.kind === "files") return onProgress("backup", progress);
        replayProgress(source.plan, progress.lsn, onProgress);
      },
    });
    return { kind: "restored", label: backup.label, segments };
  } catch (error) {
    if (signal.aborted) throw error;
    return { kind: "impossible", reason: messageOf(error) };
  }
}
