/** The sidecar's process, from its arguments to its exit code (docs/sidecar.md). */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { codeOf, createLogger, type GuardedHttp, messageOf, SecretFile } from "@quorate/common";
import { type SidecarServer, serverCredentials, startSidecarServer, useClientAccess } from "@quorate/proto";
import { registerBackupMetrics } from "./backup/backup-metrics.ts";
import { BackupService } from "./backup/backup-service.ts";
import { registerBudgetMetrics } from "./budget/budget-metrics.ts";
import { nodeBudget } from "./budget/node-budget.ts";
import { ConfigError, loadSidecarConfig, type SidecarConfig } from "./config.ts";
import { prepareEnvironment, releasePidFile, takePidFile } from "./environment.ts";
import { startHttp } from "./http.ts";
import { SidecarMetrics } from "./metrics.ts";
import { nodePaths } from "./paths.ts";
import { Pooler } from "./pooler/pooler.ts";
import { sidecarHandlers } from "./service.ts";
import { copiesSlots } from "./settings.ts";
import { SidecarNode } from "./sidecar-node.ts";
import { SlotKeeper } from "./slots/slot-keeper.ts";

const usage = "usage: node sidecar/src/main.ts --config FILE   (docs/data-root.md describes the file)";

function configFile(): string {
  try {
    const { values } = parseArgs({ options: { config: { type: "string" } } });
    if (values.config !== undefined) return values.config;
  } catch (error) {
    throw new ConfigError(`${messageOf(error)}\n${usage}`);
  }
  throw new ConfigError(usage);
}

function version(): string {
  const file = new URL("../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

async function listening<T>(what: string, start: () => Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    throw new ConfigError(`can't listen on ${what}: ${messageOf(error)}; free the port or choose another`);
  }
}

/** Read now, so that a file that can't be used stops the start. */
function tokenOf({ tokenFile }: SidecarConfig): (() => string) | undefined {
  if (tokenFile === undefined) return undefined;
  const secret = new SecretFile(tokenFile);
  try {
    void secret.value;
  } catch (error) {
    throw new ConfigError(`can't use the file that tokenFile names: ${messageOf(error)}`);
  }
  return () => secret.value;
}

async function run(): Promise<void> {
  const file = configFile();
  const config = loadSidecarConfig(file);
  useClientAccess(config);
  const token = tokenOf(config);
  const paths = nodePaths(config.dir);
  const owner = prepareEnvironment(config, paths);
  const logger = createLogger({
    name: "sidecar",
    level: config.logLevel,
    fields: { node: config.node.id, cluster: config.cluster },
  });
  takePidFile(paths.pidFile);

  const sidecarVersion = version();
  const shutdown = new AbortController();
  let metrics: SidecarMetrics | undefined;
  let slots: SlotKeeper | undefined;
  const { backup: backupConfig } = config;
  const backup =
    backupConfig === undefined
      ? undefined
      : new BackupService({ config: { ...config, backup: backupConfig }, paths, owner, logger });
  backup?.prepare();
  const node = await SidecarNode.load({
    config,
    paths,
    owner,
    sidecarVersion,
    reload: () => loadSidecarConfig(file),
    logger,
    ...(backup === undefined ? {} : { backup }),
    onEvent: (event) => {
      metrics?.record(event);
      slots?.noticed();
    },
  });
  metrics = new SidecarMetrics(
    () => node.status(),
    () => node.watchers.count,
    { node: config.node.id, cluster: config.cluster },
  );
  const { registry } = metrics;
  if (backup !== undefined) registerBackupMetrics(registry, () => backup.report());
  const connections = nodeBudget(node, config, paths);
  registerBudgetMetrics(registry, connections);
  const pooler =
    config.ports.pooler === undefined
      ? undefined
      : new Pooler({ config, root: paths.root, owner, status: () => node.status(), logger });
  // The ports are a second lock: nothing of Postgres is touched before they are ours.
  const grpc = await listening(`${config.host}:${config.ports.grpc} (ports.grpc)`, () =>
    startSidecarServer(
      {
        host: config.host,
        port: config.ports.grpc,
        credentials: serverCredentials(config.tls),
        // With certificates nobody else gets as far as that.
        token: config.tls === undefined ? token : undefined,
        onError: (method, error) => logger.error({ err: error, method }, "a request failed"),
      },
      sidecarHandlers(node, { cluster: config.cluster, shutdown: shutdown.signal, connections }),
    ),
  );
  // In the clear to this machine only.
  const httpHost = config.tls === undefined ? "127.0.0.1" : config.host;
  const http = await listening(`${httpHost}:${config.ports.http} (ports.http)`, () =>
    startHttp({
      host: httpHost,
      port: config.ports.http,
      tls: config.tls,
      token,
      status: () => node.status(),
      registry,
      ...(pooler === undefined ? {} : { more: () => pooler.metrics() }),
      onError: (error) => logger.warn({ err: error }, "a request over HTTP failed"),
    }),
  );
  if (copiesSlots(config))
    slots = new SlotKeeper({
      config,
      paths,
      owner,
      status: () => node.status(),
      followed: () => node.memory.current.follow,
      reload: () => node.supervisor.reload(),
      logger,
    });
  logger.info({ ports: config.ports, term: node.promise?.term ?? 0 }, "the sidecar runs");

  const stop = async (signal: string): Promise<void> => {
    logger.info({ signal, postgres: config.onTerminate }, "stopping");
    shutdown.abort();
    slots?.end();
    await Promise.all([backup?.end(), pooler?.stop()]);
    await stopAll(node, grpc, http, config.onTerminate);
    releasePidFile(paths.pidFile);
    logger.info("stopped");
    process.exit(0);
  };
  let stopping = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => {
      if (stopping) return;
      stopping = true;
      stop(signal).catch((error: unknown) => {
        logger.fatal({ err: error }, "could not stop in good order");
        process.exit(1);
      });
    });
  process.on("SIGHUP", () => undefined); // a closed terminal is no reason to stop
  process.on("uncaughtException", (error) => {
    logger.fatal({ err: error }, "the sidecar ends; Postgres goes on");
    process.exit(1);
  });
  await node.begin();
  slots?.noticed();
  await pooler?.start();
  backup?.start({
    status: () => node.status(),
    changed: () => node.watchers.publish(),
    record: (event) => node.events.append(event),
  });
}

/** Watchers see Postgres stop before their streams end. */
async function stopAll(
  node: SidecarNode,
  grpc: SidecarServer,
  http: GuardedHttp,
  postgres: "stop" | "leave",
): Promise<void> {
  await node.end(postgres);
  node.watchers.end();
  await grpc.stop();
  http.close();
}

/** Ends the process when something is wrong; otherwise it goes on until a signal. */
export async function runSidecar(): Promise<void> {
  try {
    await run();
  } catch (error) {
    const isConfig = error instanceof ConfigError || codeOf(error) === "bad_config";
    process.stderr.write(`quorate sidecar: ${messageOf(error)}\n`);
    if (!isConfig && error instanceof Error) process.stderr.write(`${error.stack}\n`);
    process.exit(isConfig ? 2 : 1);
  }
}
