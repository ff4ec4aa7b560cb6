/** What backup and archive do for the data of this node, with a line in the audit trail of how it went. */
import type { Peer } from "../conninfo.ts";
import { readSecret } from "../environment.ts";
import { catchUpFromArchive, type OutdatedData } from "./archive-catch-up.ts";
import type { BackupEvent } from "./backup-events.ts";
import { type CloneProgressHandler, type NodeRestoreOptions, restoreNode } from "./node-restore.ts";
import { remoteSystemIdentifier } from "./peers.ts";

export class NodeData {
  readonly #options: NodeRestoreOptions;
  readonly #tell: (event: BackupEvent) => void;

  constructor(options: NodeRestoreOptions, tell: (event: BackupEvent) => void) {
    this.#options = options;
    this.#tell = tell;
  }

  /**
   * Fills `directory` from the newest backup and the archive. False: there is nothing to restore from, or it failed
   * and the caller should copy from another node.
   */
  async restore(
    directory: string,
    systemIdentifier: string | null,
    onProgress: CloneProgressHandler,
    signal: AbortSignal,
  ): Promise<boolean> {
    const startedMs = performance.now();
    const outcome = await restoreNode(this.#options, directory, systemIdentifier, onProgress, signal);
    const restored = outcome.kind === "restored";
    if (!restored)
      this.#options.logger.info(
        { reason: outcome.reason },
        "no restore from a backup: copying from a node instead",
      );
    this.#tell({
      row: "new_node",
      reason: "the node has no data",
      outcome: restored
        ? `made from backup ${outcome.label} and ${outcome.segments} archived segments`
        : `copied from another node: ${outcome.reason}`,
      ok: restored,
      durationMs: performance.now() - startedMs,
    });
    return restored;
  }

  /** Brings data up to date that lacks log which no node has any more. False: that can't be done, or failed. */
  async update(
    outdated: OutdatedData,
    systemIdentifier: string | null,
    onProgress: CloneProgressHandler,
    signal: AbortSignal,
  ): Promise<boolean> {
    const startedMs = performance.now();
    const outcome = await catchUpFromArchive(this.#options, outdated, systemIdentifier, onProgress, signal);
    const done = outcome.kind === "caughtUp";
    if (!done)
      this.#options.logger.info({ reason: outcome.reason }, "the archive can't bring the data up to date");
    this.#tell({
      row: "outdated_node",
      reason: "no node has the log any more that the node lacks",
      outcome: done
        ? `brought up to date from ${outcome.segments} archived segments`
        : `to be made anew: ${outcome.reason}`,
      ok: done,
      durationMs: performance.now() - startedMs,
    });
    return done;
  }

  /** Of the cluster whose node this is to follow; null: it can't be asked. */
  async clusterIdentifier(leader: Peer): Promise<string | null> {
    const { replication, tls } = this.#options.config;
    const password = readSecret(replication.passwordFile, "replication.passwordFile");
    return await remoteSystemIdentifier(leader, replication.user, password, tls);
  }
}
