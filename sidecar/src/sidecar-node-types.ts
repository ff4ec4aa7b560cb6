/** What a SidecarNode is given, is asked, and tells. */
import type { Logger } from "@quorate/common";
import type { NodeAnswer, NodeRequest } from "@quorate/consensus";
import type { BackupService } from "./backup/backup-service.ts";
import type { Sending } from "./command-sender.ts";
import type { SidecarConfig } from "./config.ts";
import type { Peer } from "./conninfo.ts";
import type { PostgresOwner } from "./environment.ts";
import type { NodePaths } from "./paths.ts";

export type SidecarNodeOptions = {
  readonly config: SidecarConfig;
  readonly paths: NodePaths;
  readonly owner: PostgresOwner;
  readonly sidecarVersion: string;
  /** sidecar.json as it is now; throws when it can't be used. */
  readonly reload?: () => SidecarConfig;
  readonly logger: Logger;
  /** Backups of this node; absent: there are none. */
  readonly backup?: BackupService;
  /** For metrics: what happened. */
  readonly onEvent: (event: SidecarEvent) => void;
};

export type SidecarEvent =
  | { readonly kind: "crash" }
  | {
      readonly kind: "answered";
      readonly request: NodeRequest["kind"];
      readonly code: string;
      readonly durationMs: number;
    }
  | { readonly kind: "status" };

export type SubmitOptions = {
  readonly signal: AbortSignal;
  /** Of the control command. */
  readonly timeoutMs: number;
  /** Where the leader (follow) or the source (fetch) is reached. */
  readonly peer?: Peer;
  /** A follow turned out to need a copy first, which takes its time. */
  readonly onCloning?: () => void;
};

export type Pending = SubmitOptions &
  Sending & {
    readonly request: NodeRequest;
    readonly resolve: (answer: NodeAnswer) => void;
  };

/** Settings and programs of Postgres are read anew at each start of it, so that a restart is all that a change needs. */
export function freshConfig({ config, reload, logger }: SidecarNodeOptions): SidecarConfig {
  if (reload === undefined) return config;
  try {
    const { settings, binDir } = reload().postgres;
    return { ...config, postgres: { ...config.postgres, settings, binDir } };
  } catch (error) {
    logger.error({ err: error }, "sidecar.json can't be used: Postgres starts with what it said before");
    return config;
  }
}
