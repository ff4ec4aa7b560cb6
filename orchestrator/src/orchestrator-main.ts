// One orchestrator as a process: node orchestrator/src/orchestrator-main.ts --config orchestrator.json
import { randomBytes } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { codeOf, createLogger, messageOf, SecretFile } from "@quorate/common";
import { coordinatorId, defaultDetectorOptions } from "@quorate/consensus";
import { useClientAccess } from "@quorate/proto";
import { startHttp } from "./http.ts";
import { Metrics } from "./metrics.ts";
import { Orchestrator } from "./orchestrator.ts";
import { loadOrchestratorConfig } from "./orchestrator-config.ts";
import { knownPolicies } from "./policy-text.ts";

const exitWrongConfig = 2;

function configOption(): string {
  const { values } = parseArgs({ options: { config: { type: "string" } } });
  if (values.config === undefined) throw new Error("give the configuration: --config orchestrator.json");
  return path.resolve(values.config);
}

async function main(): Promise<void> {
  const file = configOption();
  const config = loadOrchestratorConfig(file);
  useClientAccess(config);
  // A restart is a new coordinator: a promise that was made to the old one isn't ours.
  const id = coordinatorId(`${config.id}-${randomBytes(4).toString("hex")}`);
  const log = createLogger({
    name: "orchestrator",
    level: config.logLevel,
    fields: { orchestrator: config.id, coordinator: id },
  });
  const metrics = new Metrics({ cluster: config.cluster, orchestrator: config.id, zone: config.zone });
  const orchestrator = new Orchestrator({
    id,
    name: config.id,
    zone: config.zone,
    addresses: config.nodes,
    log,
    listener: metrics,
    policies: knownPolicies(config.policies),
    detector: { ...defaultDetectorOptions, silentMs: config.silentMs, dampFree: config.dampFree },
  });
  const secret = config.tokenFile === undefined ? undefined : new SecretFile(config.tokenFile);
  const guarded = {
    host: config.host,
    port: config.httpPort,
    tls: config.tls,
    token: secret === undefined ? undefined : () => secret.value,
    onError: (error: unknown) => log.warn({ err: error }, "a request over HTTP failed"),
  };
  const server = await startHttp(guarded, {
    health: () => {
      const nodes = [...(orchestrator.observation?.nodes.values() ?? [])];
      const reached = nodes.filter(({ link }) => link === "connected").length;
      return { ok: reached > 0, reason: `hears ${reached} of ${nodes.length} nodes` };
    },
    status: () => ({
      orchestrator: config.id,
      coordinator: id,
      zone: config.zone,
      decisions: orchestrator.decisions,
      observation: orchestrator.observation,
    }),
    metrics: () => metrics.render(orchestrator.observation),
  });
  const pidFile = path.join(path.dirname(file), "orchestrator.pid");
  writeFileSync(pidFile, `${process.pid}\n`);
  orchestrator.start();
  log.info({ zone: config.zone, nodes: config.nodes }, "orchestrator started");

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => {
      log.info({ signal }, "orchestrator stops");
      orchestrator.stop();
      server.close();
      rmSync(pidFile, { force: true });
      process.exit(0);
    });
  }
}

main().catch((error: unknown) => {
  console.error(messageOf(error));
  process.exit(codeOf(error) === "bad_option" ? exitWrongConfig : 1);
});
