/** `quorate-gateway --config gateway.json`, or `--server host:port` for a try. */
import { ftruncateSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import path from "node:path";
import { createLogger, messageOf } from "@quorate/common";
import { Command } from "commander";
import { type Config, ConfigError, parseConfig } from "./config.ts";
import { answerParent } from "./parent.ts";
import { becomeUser } from "./run-as.ts";
import { keepHeapSmall } from "./small-heap.ts";
import { startGateway } from "./start.ts";
import { buildNative } from "./transport/native-build.ts";

const program = new Command("quorate-gateway")
  .description("one connection string for a cluster's life")
  .option("--config <file>", "configuration (JSON)")
  .option("--server <host:port>", "in front of this one server")
  .option("--port <port>", "port to listen on")
  .option("--authentication <method>", "scram or trust")
  .option("--pool-size <count>", "server connections per database and user")
  .parse();

const given = program.opts<{
  config?: string;
  server?: string;
  port?: string;
  authentication?: string;
  poolSize?: string;
}>();

function readConfigFile(file: string): Record<string, unknown> & { listen?: object } {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new ConfigError(`could not read ${file}: ${messageOf(error)}`);
  }
}

const directory = given.config === undefined ? process.cwd() : path.dirname(path.resolve(given.config));

function readConfig(): Config {
  // biome-ignore lint/suspicious/noExplicitAny: parseConfig checks what comes out
  const raw: any = given.config === undefined ? {} : readConfigFile(given.config);
  if (given.server !== undefined) {
    const colon = given.server.lastIndexOf(":");
    raw.server = { host: given.server.slice(0, colon), port: Number(given.server.slice(colon + 1)) };
  }
  if (given.port !== undefined) raw.listen = { ...raw.listen, port: Number(given.port) };
  if (given.authentication !== undefined)
    raw.authentication = { ...raw.authentication, method: given.authentication };
  if (given.poolSize !== undefined) raw.pool = { ...raw.pool, size: Number(given.poolSize) };
  return parseConfig(raw, directory);
}

/** Exit code 2: only a human can change it, a restart can't. */
function orExit<T>(what: () => T): T {
  try {
    return what();
  } catch (error) {
    process.stderr.write(`quorate-gateway: ${messageOf(error)}\n`);
    process.exit(error instanceof ConfigError ? 2 : 1);
  }
}

const config = orExit(readConfig);
const log = createLogger({
  name: "gateway",
  level: config.log.level,
  ...(config.log.file ? { file: config.log.file } : {}),
});

let stopping = false;
const shutdown = (): void => {
  if (stopping) process.exit(1);
  stopping = true;
  log.info("draining");
  gateway.drain().then(
    () => {
      removePidFile();
      process.exit(0);
    },
    (error: unknown) => {
      log.error({ error }, "could not drain");
      process.exit(1);
    },
  );
};

const pidFile = given.config === undefined ? undefined : path.join(directory, "gateway.pid");
/** Open from before root is given up: the directory may be root's, so that who runs as less can't change its files. */
const pidFd = pidFile === undefined ? undefined : orExit(() => openSync(pidFile, "a", 0o644));

function writePidFile(): void {
  if (pidFd === undefined) return;
  ftruncateSync(pidFd);
  writeSync(pidFd, `${process.pid}\n`);
}

function removePidFile(): void {
  if (pidFile === undefined || pidFd === undefined) return;
  ftruncateSync(pidFd);
  try {
    rmSync(pidFile, { force: true });
  } catch {
    // The directory is root's: the file stays, empty.
  }
}

const { runAs, transport } = config;
if (runAs !== undefined) {
  if (transport !== "net") buildNative(); // its directory may be root's
  orExit(() => becomeUser(runAs, log));
}

keepHeapSmall();
const gateway = await startGateway({ config, log, readConfig, shutdown }).catch((error: unknown) =>
  orExit(() => {
    throw error;
  }),
);
writePidFile();
answerParent(gateway, () => process.exit(0));
process.on("SIGHUP", () => gateway.reload());
process.on("SIGTERM", shutdown);
process.on("SIGINT", shutdown);
log.info({ port: gateway.port }, "listening");
