/** Starts a gateway in this process: one worker on this thread, or several threads that share the port. */
import * as http from "node:http";
import type { Logger } from "@quorate/common";
import { useClientAccess } from "@quorate/proto";
import { metricsText } from "./admin/metrics.ts";
import type { Config } from "./config.ts";
import { makeWorker } from "./make-worker.ts";
import { fixedServer, type LeaderSource } from "./route/leader-source.ts";
import { SidecarWatch } from "./route/sidecar-watch.ts";
import type { Worker } from "./worker.ts";
import { Counters } from "./workers/counters.ts";
import { Crew } from "./workers/crew.ts";

export type StartOptions = {
  readonly config: Config;
  readonly log: Logger;
  readonly leaders?: LeaderSource;
  /** Reads the configuration again (RELOAD, SIGHUP). */
  readonly readConfig?: () => Config;
  readonly shutdown?: () => void;
};

export type RunningGateway = {
  readonly port: number;
  readonly readPort: number | undefined;
  readonly metricsPort: number | undefined;
  reload(): void;
  drain(): Promise<void>;
  close(): Promise<void>;
};

/** What the two forms have in common is around them: leaders, metrics, reading the configuration again. */
type Body = {
  readonly port: number;
  readonly readPort: number | undefined;
  metrics(): string | Promise<string>;
  reconfigure(config: Config): void;
  drain(): Promise<void>;
  close(): void | Promise<void>;
};

export async function startGateway(options: StartOptions): Promise<RunningGateway> {
  const several = options.config.workers > 1;
  return around(options, several ? (parts) => crew(parts) : async (parts) => (await single(parts)).body);
}

/** One worker on this thread, whatever the configuration says; its state can be looked at. */
export async function startSingle(options: StartOptions): Promise<RunningGateway & { worker: Worker }> {
  let worker: Worker | undefined;
  const running = await around(options, async (parts) => {
    const made = await single(parts);
    worker = made.worker;
    return made.body;
  });
  return { ...running, worker: worker as Worker };
}

type BodyParts = {
  readonly config: Config;
  readonly leaders: LeaderSource;
  readonly log: Logger;
  readonly reload: () => void;
  readonly shutdown: () => void;
};

async function single(parts: BodyParts): Promise<{ worker: Worker; body: Body }> {
  const { config } = parts;
  const { worker, reconfigure } = await makeWorker({
    ...parts,
    workerId: 0,
    counters: new Counters(Counters.bufferFor(1), 0),
    forwardCancel() {},
    makeRoom() {},
    everywhere: undefined,
  });
  const { host, readPort: wanted } = config.listen;
  const port = await worker.listen(host, config.listen.port);
  const readPort = wanted === undefined ? undefined : await worker.listen(host, wanted, true);
  const body: Body = {
    port,
    readPort,
    metrics: () => metricsText(worker),
    reconfigure,
    drain: () => worker.drain(),
    close: () => worker.close(),
  };
  return { worker, body };
}

async function crew(parts: BodyParts): Promise<Body> {
  const made = new Crew(parts);
  try {
    await made.start();
  } catch (error) {
    await made.close();
    throw error;
  }
  return made;
}

async function around(
  options: StartOptions,
  start: (parts: BodyParts) => Promise<Body>,
): Promise<RunningGateway> {
  const { config, log } = options;
  const leaders = options.leaders ?? leadersOf(config);
  let draining = false;
  const reload = (): void => {
    if (options.readConfig === undefined) return;
    try {
      const fresh = options.readConfig();
      body.reconfigure(fresh);
      leaders.follow?.(fresh.sidecars);
      log.info("configuration read again");
    } catch (error) {
      log.warn({ error }, "the new configuration can't be used; the old one stays");
    }
  };
  const shutdown = options.shutdown ?? (() => {});
  const body: Body = await start({ config, leaders, log, reload, shutdown });
  const healthy = () => leaders.view.leader !== undefined && !draining;
  const metrics = await serveMetrics(config, body, healthy);
  const end = () => {
    metrics?.server.close();
    leaders.close();
  };
  return {
    port: body.port,
    readPort: body.readPort,
    metricsPort: metrics?.port,
    reload,
    async drain() {
      draining = true;
      await body.drain();
      end();
    },
    async close() {
      await body.close();
      end();
    },
  };
}

function leadersOf(config: Config): LeaderSource {
  if (config.server !== undefined) return fixedServer(config.server.host, config.server.port);
  useClientAccess({ tls: config.sidecarTls, tokenFile: config.sidecarTokenFile });
  return new SidecarWatch(config.sidecars, `gateway-${process.pid}`);
}

async function serveMetrics(
  config: Config,
  body: Body,
  healthy: () => boolean,
): Promise<{ server: http.Server; port: number } | undefined> {
  if (config.metrics === undefined) return undefined;
  const server = http.createServer((request, response) => {
    if (request.url === "/metrics") {
      response.setHeader("content-type", "text/plain; version=0.0.4");
      Promise.resolve(body.metrics()).then((text) => response.end(text));
    } else if (request.url === "/health") {
      const ok = healthy();
      response.writeHead(ok ? 200 : 503).end(ok ? "ok\n" : "no leader\n");
    } else response.writeHead(404).end();
  });
  const { host, port } = config.metrics;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  const address = server.address();
  return { server, port: typeof address === "object" && address !== null ? address.port : port };
}
