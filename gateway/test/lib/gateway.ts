/** A gateway in this process, in front of a test server. */
import { createLogger } from "@quorate/common";
import pg from "pg";
import { parseConfig } from "../../src/config.ts";
import type { LeaderSource } from "../../src/route/leader-source.ts";
import { type RunningGateway, startSingle } from "../../src/start.ts";
import type { Worker } from "../../src/worker.ts";

export type TestGateway = RunningGateway & {
  readonly worker: Worker;
  /** A connected client of the `pg` package. */
  client(options?: pg.ClientConfig): Promise<pg.Client>;
};

export async function startTestGateway(
  server: { host: string; port: number },
  overrides: Record<string, unknown> = {},
  leaders?: LeaderSource,
): Promise<TestGateway> {
  const config = parseConfig({
    listen: { host: "127.0.0.1", port: 0 },
    server,
    authentication: { method: "trust" },
    transport: process.env["GATEWAY_TRANSPORT"] ?? "net",
    log: { level: "warn" },
    ...overrides,
  });
  const gateway = await startSingle({
    config,
    log: createLogger({ name: "gateway", level: "warn" }),
    ...(leaders === undefined ? {} : { leaders }),
  });
  return {
    ...gateway,
    async client(options = {}) {
      const client = new pg.Client({
        host: "127.0.0.1",
        port: gateway.port,
        user: "postgres",
        database: "postgres",
        ...options,
      });
      client.on("error", () => {});
      await client.connect();
      return client;
    },
  };
}
