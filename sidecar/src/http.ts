/** /health, /status and /metrics for people and monitoring, on the loopback address only. */
import { createServer, type Server, type ServerResponse } from "node:http";
import { formatLsn } from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";
import type { Registry } from "prom-client";

export type HttpOptions = {
  readonly port: number;
  readonly status: () => NodeStatus;
  readonly registry: Registry;
};

export function startHttp(options: HttpOptions): Promise<Server> {
  const server = createServer((request, response) => {
    void serve(request.url ?? "/", response, options);
  });
  server.unref();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, "127.0.0.1", () => {
      server.removeListener("error", reject);
      resolve(server);
    });
  });
}

async function serve(url: string, response: ServerResponse, options: HttpOptions): Promise<void> {
  const path = url.split("?", 1)[0];
  if (path === "/metrics") {
    send(response, 200, options.registry.contentType, await options.registry.metrics());
  } else if (path === "/status") {
    send(response, 200, "application/json", statusJson(options.status()));
  } else if (path === "/health") {
    // The sidecar itself is well if it answers; Postgres may be down for a reason.
    const { postgres, state } = options.status();
    send(response, 200, "application/json", `${JSON.stringify({ sidecar: "ok", postgres, state })}\n`);
  } else {
    send(response, 404, "text/plain", "try /health, /status or /metrics\n");
  }
}

function send(response: ServerResponse, code: number, type: string, body: string): void {
  response.writeHead(code, { "content-type": type, "cache-control": "no-store" });
  response.end(body);
}

/** LSNs as Postgres prints them. */
export function statusJson(status: NodeStatus): string {
  return `${JSON.stringify(status, (_, value: unknown) => (typeof value === "bigint" ? formatLsn(value as never) : value), 2)}\n`;
}
