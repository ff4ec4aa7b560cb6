/** Starts a gateway in this process: one worker on this thread, or several threads that share the port. */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { type GuardedHttp, type Logger, SecretFile, startGuardedHttp, watchTlsFiles } from "@quorate/common";
import { useClientAccess } from "@quorate/proto";
import { leaseMetrics, metricsText } from "./admin/metrics.ts";
import { Leases } from "./budget/leases.ts";
import { NodeLimits } from "./budget/node-limits.ts";
import type { Config } from "./config.ts";
import { makeWorker } from "./make-worker.ts";
import { fixedServer, type LeaderSource, type View } from "./route/leader-source.ts";
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
  /** What /metrics shows. */
  metrics(): Promise<string>;
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
  /** Shares of servers' connections have changed. */
  limitsChanged(): void;
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
  readonly limits: NodeLimits;
  readonly wantMore: (node: string) => void;
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
    limitsChanged: () => worker.options.transport.turn(() => worker.room.changed()),
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
  const budget = budgetOf(config, leaders, log, () => started?.limitsChanged());
  let draining = false;
  const reload = (): void => {
    if (options.readConfig === undefined) return;
    try {
      const fresh = options.readConfig();
      body.reconfigure(fresh);
      budget.reconfigure(fresh);
      leaders.follow?.(fresh.sidecars);
      log.info("configuration read again");
    } catch (error) {
      log.warn({ error }, "the new configuration can't be used; the old one stays");
    }
  };
  const shutdown = options.shutdown ?? (() => {});
  let started: Body | undefined;
  const body: Body = await start({ config, leaders, log, reload, shutdown, ...budget });
  started = body;
  const healthy = () => leaders.view.leader !== undefined && !draining;
  const metrics = async () => (await body.metrics()) + leaseMetrics(budget.limits.all);
  const http = await serveMetrics(config, metrics, healthy, log);
  const unwatch = watchCertificate(config, reload, log);
  const end = async (): Promise<void> => {
    unwatch();
    http?.close();
    await budget.close();
    leaders.close();
  };
  return {
    port: body.port,
    readPort: body.readPort,
    metricsPort: http?.port,
    metrics,
    reload,
    async drain() {
      draining = true;
      await body.drain();
      await end();
    },
    async close() {
      await body.close();
      await end();
    },
  };
}

type Budget = Pick<BodyParts, "limits" | "wantMore"> & {
  reconfigure(config: Config): void;
  close(): Promise<void>;
};

/** Leases where there are sidecars; without them only the gateway's own limits count. */
function budgetOf(config: Config, leaders: LeaderSource, log: Logger, changed: () => void): Budget {
  const limits = new NodeLimits(NodeLimits.bufferFor(config.workers), 0);
  const register = ({ leader, followers }: View): void =>
    limits.register([...(leader === undefined ? [] : [leader]), ...followers].map(({ node }) => node));
  register(leaders.view);
  // Before anybody else hears of a new node, it has its place.
  const unsubscribe = leaders.subscribe(register);
  const begin = (): Leases =>
    new Leases({
      holder: `${hostname()}-${process.pid}-${randomBytes(4).toString("hex")}`,
      limits,
      sidecars: () => leaders.sidecars?.() ?? new Map(),
      changed,
      log,
    });
  let leases: Leases | undefined;
  const follow = ({ budget: { lease, unleased } }: Config): void => {
    const leased = lease && leaders.sidecars !== undefined;
    limits.unleased = leased ? unleased : Number.POSITIVE_INFINITY;
    if (leased) leases ??= begin();
    else if (leases !== undefined) {
      void leases.close();
      leases = undefined;
      limits.endShares();
    }
  };
  follow(config);
  return {
    limits,
    wantMore: (node) => leases?.wantMore(node),
    reconfigure(fresh) {
      follow(fresh);
      changed();
    },
    async close() {
      unsubscribe();
      await leases?.close();
    },
  };
}

function leadersOf(config: Config): LeaderSource {
  if (config.server !== undefined) return fixedServer(config.server.host, config.server.port);
  useClientAccess({ tls: config.sidecarTls, tokenFile: config.sidecarTokenFile });
  return new SidecarWatch(config.sidecars, `gateway-${process.pid}`);
}

/** A renewed certificate counts at once for connections to servers; an expired one they would refuse. */
function watchCertificate({ sidecarTls }: Config, reload: () => void, log: Logger): () => void {
  if (sidecarTls === undefined) return () => undefined;
  return watchTlsFiles(sidecarTls, reload, (error) => log.warn({ error }, "the certificate can't be read"));
}

/** To those who are known as sidecars know them; whether it works is told to everybody. */
async function serveMetrics(
  config: Config,
  metrics: () => Promise<string>,
  healthy: () => boolean,
  log: Logger,
): Promise<GuardedHttp | undefined> {
  if (config.metrics === undefined) return undefined;
  const { sidecarTls: tls, sidecarTokenFile } = config;
  const secret = sidecarTokenFile === undefined ? undefined : new SecretFile(sidecarTokenFile);
  return startGuardedHttp({
    ...config.metrics,
    tls,
    token: secret && (() => secret.value),
    onError: (error) => log.warn({ error }, "a request over HTTP failed"),
    routes: {
      "/metrics": { answer: async () => ({ type: "text/plain; version=0.0.4", body: await metrics() }) },
      "/health": {
        open: true,
        answer: () =>
          healthy()
            ? { type: "text/plain", body: "ok\n" }
            : { code: 503, type: "text/plain", body: "no leader\n" },
      },
    },
  });
}
