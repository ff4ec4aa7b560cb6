/** /health, /status and /metrics for people and monitoring: to those who are known, except for /health. */
import { type GuardedHttp, type GuardedHttpOptions, jsonAnswer, startGuardedHttp } from "@quorate/common";
import { formatLsn } from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";
import type { Registry } from "prom-client";

export type HttpOptions = Omit<GuardedHttpOptions, "routes"> & {
  readonly status: () => NodeStatus;
  readonly registry: Registry;
  /** What others show below our own metrics. */
  readonly more?: () => Promise<string>;
};

export function startHttp({ status, registry, more, ...options }: HttpOptions): Promise<GuardedHttp> {
  return startGuardedHttp({
    ...options,
    routes: {
      "/health": {
        open: true,
        answer: (known) => {
          // The sidecar itself is well if it answers; Postgres may be down for a reason.
          const { postgres, state } = status();
          return jsonAnswer(
            `${JSON.stringify(known ? { sidecar: "ok", postgres, state } : { sidecar: "ok" })}\n`,
          );
        },
      },
      "/status": { answer: () => jsonAnswer(statusJson(status())) },
      "/metrics": {
        answer: async () => ({
          type: registry.contentType,
          body: (await registry.metrics()) + ((await more?.()) ?? ""),
        }),
      },
    },
  });
}

/** LSNs as Postgres prints them. */
export function statusJson(status: NodeStatus): string {
  return `${JSON.stringify(status, (_, value: unknown) => (typeof value === "bigint" ? formatLsn(value as never) : value), 2)}\n`;
}
