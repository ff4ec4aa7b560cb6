// GET /health, /status and /metrics of one orchestrator.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { messageOf } from "@quorate/common";

export interface HttpRoutes {
  /** ok: it hears of at least one node. */
  readonly health: () => { readonly ok: boolean; readonly reason: string };
  readonly status: () => unknown;
  readonly metrics: () => Promise<string>;
}

const requestTimeoutMs = 5_000;

/** LSNs are bigint, node sets and maps don't print by themselves. */
function plain(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  return value;
}

async function answer(routes: HttpRoutes, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const send = (code: number, type: string, body: string): void => {
    response.writeHead(code, { "content-type": type }).end(body);
  };
  const json = (code: number, value: unknown): void =>
    send(code, "application/json", `${JSON.stringify(value, plain, 2)}\n`);
  if (request.method !== "GET") return json(405, { error: "only GET is possible" });
  switch (new URL(request.url ?? "/", "http://localhost").pathname) {
    case "/health": {
      const health = routes.health();
      return json(health.ok ? 200 : 503, health);
    }
    case "/status":
      return json(200, routes.status());
    case "/metrics":
      return send(200, "text/plain; version=0.0.4", await routes.metrics());
    default:
      return json(404, { error: "there are /health, /status and /metrics" });
  }
}

export async function startHttp(host: string, port: number, routes: HttpRoutes): Promise<Server> {
  const server = createServer((request, response) => {
    answer(routes, request, response).catch((error: unknown) => {
      if (!response.headersSent) response.writeHead(500).end(`${messageOf(error)}\n`);
      else response.destroy();
    });
  });
  server.requestTimeout = requestTimeoutMs;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  return server;
}
