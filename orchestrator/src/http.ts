// GET /health, /status and /metrics of one orchestrator.
import { type GuardedHttp, type GuardedHttpOptions, jsonAnswer, startGuardedHttp } from "@quorate/common";

export interface HttpRoutes {
  /** ok: it hears of at least one node. */
  readonly health: () => { readonly ok: boolean; readonly reason: string };
  readonly status: () => unknown;
  readonly metrics: () => Promise<string>;
}

/** LSNs are bigint, node sets and maps don't print by themselves. */
function plain(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  return value;
}

const json = (value: unknown): string => `${JSON.stringify(value, plain, 2)}\n`;

export function startHttp(
  options: Omit<GuardedHttpOptions, "routes">,
  routes: HttpRoutes,
): Promise<GuardedHttp> {
  return startGuardedHttp({
    ...options,
    routes: {
      "/health": {
        open: true,
        answer: (known) => {
          const health = routes.health();
          return jsonAnswer(json(known ? health : { ok: health.ok }), health.ok ? 200 : 503);
        },
      },
      "/status": { answer: () => jsonAnswer(json(routes.status())) },
      "/metrics": {
        answer: async () => ({ type: "text/plain; version=0.0.4", body: await routes.metrics() }),
      },
    },
  });
}
