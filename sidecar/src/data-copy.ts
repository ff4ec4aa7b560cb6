/** A node without data gets its data directory: from backup and archive if it can, else from another node. */
import type { Logger } from "@quorate/common";
import { type NodeId, nodeId } from "@quorate/consensus";
import type { Clone } from "@quorate/proto";
import type { BackupService } from "./backup/backup-service.ts";
import type { CloneProgressHandler } from "./backup/node-restore.ts";
import type { Peer } from "./conninfo.ts";
import type { DataDirectory } from "./data-directory.ts";
import type { Supervisor } from "./supervisor.ts";

type DataCopyOptions = {
  readonly data: DataDirectory;
  readonly supervisor: Supervisor;
  readonly backup: BackupService | undefined;
  readonly shutdown: AbortSignal;
  /** On disk before the data is made. */
  readonly beginLife: () => Promise<void>;
  readonly changed: () => void;
  readonly logger: Logger;
};

export class DataCopy {
  readonly #options: DataCopyOptions;
  #clone: Clone | null = null;

  constructor(options: DataCopyOptions) {
    this.#options = options;
  }

  /** How far the one under way is. */
  get progress(): Clone | null {
    return this.#clone;
  }

  async make(from: NodeId, peer: Peer): Promise<void> {
    const { logger, supervisor, beginLife } = this.#options;
    logger.info({ from }, "copying the data directory");
    const startedAtMs = performance.now();
    try {
      this.#clone = { from, doneBytes: 0, totalBytes: 0 };
      await supervisor.produceData("cloning", async () => {
        await beginLife();
        await this.#copy(from, peer);
      });
    } finally {
      this.#clone = null;
    }
    logger.info({ from, durationMs: Math.round(performance.now() - startedAtMs) }, "copied");
  }

  /**
   * Outdated data is brought up to date from the archive; else from the backup and the archive, without any load on
   * the leader; if there is none, from the other node.
   */
  async #copy(from: NodeId, peer: Peer): Promise<void> {
    const { backup, data, shutdown, changed } = this.#options;
    const show = (source: NodeId, progress: { doneBytes: number; totalBytes: number }): void => {
      this.#clone = { from: source, ...progress };
      changed();
    };
    if (backup !== undefined) {
      const { nodeData } = backup;
      const cluster = await nodeData.clusterIdentifier(peer);
      const tell: CloneProgressHandler = (source, progress) => show(nodeId(source), progress);
      if (await data.renew((outdated) => nodeData.update(outdated, cluster, tell, shutdown))) return;
      if (await data.fill((directory) => nodeData.restore(directory, cluster, tell, shutdown))) return;
    }
    await data.clone(peer, (progress) => show(from, progress), shutdown);
  }
}
