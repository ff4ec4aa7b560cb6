/** `quorate-gateway --config gateway.json`, or `--server host:port` for a try. */
import { readFileSync } from "node:fs";
import { createLogger } from "@quorate/common";
import { Command } from "commander";
import { type Config, parseConfig } from "./config.ts";
import { startGateway } from "./start.ts";

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

function readConfig(): Config {
  const raw = given.config === undefined ? {} : JSON.parse(readFileSync(given.config, "utf8"));
  if (given.server !== undefined) {
    const colon = given.server.lastIndexOf(":");
    raw.server = { host: given.server.slice(0, colon), port: Number(given.server.slice(colon + 1)) };
  }
  if (given.port !== undefined) raw.listen = { ...raw.listen, port: Number(given.port) };
  if (given.authentication !== undefined)
    raw.authentication = { ...raw.authentication, method: given.authentication };
  if (given.poolSize !== undefined) raw.pool = { ...raw.pool, size: Number(given.poolSize) };
  return parseConfig(raw);
}

const config = readConfig();
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
    () => process.exit(0),
    (error: unknown) => {
      log.error({ error }, "could not drain");
      process.exit(1);
    },
  );
};

const gateway = await startGateway({ config, log, readConfig, shutdown });
process.on("SIGHUP", () => gateway.reload());
process.on("SIGTERM", shutdown);
process.on("SIGINT", shutdown);
log.info({ port: gateway.port }, "listening");
