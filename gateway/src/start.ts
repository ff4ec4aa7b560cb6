/** Starts a gateway in this process: one worker, or several threads that share the port. */
import { readFileSync } from "node:fs";
import * as http from "node:http";
import type { Logger } from "@quorate/common";
import { useClientAccess } from "@quorate/proto";
import { metricsText } from "./admin/metrics.ts";
import type { Config } from "./config.ts";
import { fixedServer, type LeaderSource } from "./route/leader-source.ts";
import { SidecarWatch } from "./route/sidecar-watch.ts";
import type { Tls } from "./session/login.ts";
import { Plans } from "./text/plans.ts";
import { buildNative } from "./transport/native-build.ts";
import { NativeTransport } from "./transport/native-transport.ts";
import { endPointHash, NetTransport } from "./transport/net-transport.ts";
import { serverContext } from "./transport/secure-context.ts";
import type { Transport } from "./transport/transport.ts";
import { Worker } from "./worker.ts";

export type StartOptions = {
  readonly config: Config;
  readonly log: Logger;
  readonly leaders?: LeaderSource;
  readonly workerId?: number;
  /** Reads the configuration again (RELOAD, SIGHUP). */
  readonly readConfig?: () => Config;
  readonly shutdown?: () => void;
  readonly forwardCancel?: (key: Uint8Array) => void;
};

export type RunningGateway = {
  readonly worker: Worker;
  readonly port: number;
  readonly metricsPort: number | undefined;
  reload(): void;
  drain(): Promise<void>;
  close(): Promise<void>;
};

export async function startGateway(options: StartOptions): Promise<RunningGateway> {
  const { config, log } = options;
  const transport = chooseTransport(config, log);
  const leaders = options.leaders ?? leadersOf(config);
  let tls = readTls(config);
  const reload = (): void => {
    if (options.readConfig === undefined) return;
    try {
      const fresh = options.readConfig();
      tls = readTls(fresh);
      worker.reconfigure(fresh);
      leaders.follow?.(fresh.sidecars);
      log.info("configuration read again");
    } catch (error) {
      log.warn({ error }, "the new configuration can't be used; the old one stays");
    }
  };
  const worker: Worker = new Worker({
    config,
    workerId: options.workerId ?? 0,
    transport,
    plans: await Plans.load(),
    leaders,
    log,
    tls: () => tls,
    ownPassword: readPassword(config),
    forwardCancel: options.forwardCancel ?? (() => {}),
    reload,
    shutdown: options.shutdown ?? (() => {}),
  });
  const port = await worker.listen(config.listen.host, config.listen.port);
  const metrics = await serveMetrics(config, worker);
  return {
    worker,
    port,
    metricsPort: metrics?.port,
    reload,
    async drain() {
      await worker.drain();
      metrics?.server.close();
      leaders.close();
    },
    async close() {
      worker.close();
      metrics?.server.close();
      leaders.close();
    },
  };
}

function chooseTransport(config: Config, log: Logger): Transport {
  const onBug = (error: unknown) => log.error({ error }, "a bug in a session: its connection was closed");
  if (config.transport === "net") return new NetTransport(onBug);
  const build = buildNative();
  if ("file" in build) return NativeTransport.get(build.file, onBug);
  if (config.transport === "native") throw new Error(`the native transport can't be built: ${build.reason}`);
  log.info({ reason: build.reason }, "no native transport: Node's own sockets are used");
  return new NetTransport(onBug);
}

function leadersOf(config: Config): LeaderSource {
  if (config.server !== undefined) return fixedServer(config.server.host, config.server.port);
  useClientAccess({ tls: config.sidecarTls, tokenFile: config.sidecarTokenFile });
  return new SidecarWatch(config.sidecars, `gateway-${process.pid}`);
}

function readPassword(config: Config): string | undefined {
  const file = config.authentication.passwordFile;
  return file === undefined ? undefined : readFileSync(file, "utf8").trim();
}

function readTls(config: Config): Tls | undefined {
  if (config.tls === undefined) return undefined;
  const cert = readFileSync(config.tls.certFile);
  const key = readFileSync(config.tls.keyFile);
  return {
    context: serverContext(cert, key),
    endPointHash: endPointHash(cert),
  };
}

async function serveMetrics(
  config: Config,
  worker: Worker,
): Promise<{ server: http.Server; port: number } | undefined> {
  if (config.metrics === undefined) return undefined;
  const server = http.createServer((request, response) => {
    if (request.url === "/metrics") {
      response.setHeader("content-type", "text/plain; version=0.0.4").end(metricsText(worker));
    } else if (request.url === "/health") {
      const ok = worker.options.leaders.view.leader !== undefined && !worker.draining;
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
