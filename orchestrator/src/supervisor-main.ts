// The background process of a local cluster: keeps one sidecar per node and one orchestrator per zone running, and
// stops all of it on SIGTERM, or when its lifeline (standard input) ends. If it is itself killed, its children go on;
// the next one takes over (a sidecar's death doesn't touch Postgres).
import { unlinkSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  type ChildSpec,
  createLogger,
  keepLogsBounded,
  killLeftover,
  type Logger,
  messageOf,
  Supervised,
} from "@quorate/common";
import { connectSidecar } from "@quorate/proto";
import { type OpenCluster, openCluster, paths } from "./cluster/files.ts";
import { livePid } from "./cluster/processes.ts";
import { gatewayMain, orchestratorMain, sidecarMain } from "./cluster/programs.ts";

const sidecarStopTimeoutMs = 45_000;
const orchestratorStopTimeoutMs = 5_000;
const gatewayStopTimeoutMs = 10_000;

async function leaderOf(cluster: OpenCluster): Promise<string | undefined> {
  const answers = await Promise.all(
    cluster.file.nodes.map(async (node) => {
      const client = connectSidecar(`${node.host}:${node.ports.grpc}`);
      try {
        return await client.getStatus({ deadlineMs: 1_000 });
      } catch {
        return undefined;
      } finally {
        client.close();
      }
    }),
  );
  const leaders = answers.filter((status) => status?.state === "leader");
  return leaders.sort((a, b) => (b?.term ?? 0) - (a?.term ?? 0))[0]?.node;
}

class Supervisor {
  #cluster: OpenCluster;
  readonly #log: Logger;
  readonly #sidecars = new Map<string, Supervised>();
  readonly #orchestrators = new Map<string, Supervised>();
  readonly #gateways = new Map<string, Supervised>();
  #reloading: Promise<unknown> = Promise.resolve();
  #stopped: Promise<void> | undefined;

  constructor(cluster: OpenCluster, log: Logger) {
    this.#cluster = cluster;
    this.#log = log;
  }

  async start(): Promise<void> {
    for (const { id } of this.#cluster.file.nodes) await this.#startSidecar(id);
    for (const { id } of this.#cluster.file.orchestrators) await this.#startOrchestrator(id);
    for (const { id } of this.#cluster.file.gateways) await this.#startGateway(id);
  }

  get logs(): string[] {
    const { dir, file } = this.#cluster;
    return [
      ...file.nodes.map(({ id }) => paths.sidecarLog(dir, id)),
      ...file.orchestrators.map(({ id }) => paths.orchestratorLog(dir, id)),
      ...file.gateways.map(({ id }) => paths.gatewayLog(dir, id)),
      paths.supervisorLog(dir),
    ];
  }

  /** cluster.json has changed: what is new is started, what is gone is stopped, orchestrators start with what they know now. */
  reload(): Promise<void> {
    const next = this.#reloading.then(() => this.#reload());
    this.#reloading = next.catch((error: unknown) => this.#log.error({ err: error }, "could not reload"));
    return next;
  }

  async #reload(): Promise<void> {
    if (this.#stopped !== undefined) return;
    this.#cluster = openCluster(this.#cluster.dir);
    const wanted = new Set<string>(this.#cluster.file.nodes.map(({ id }) => id));
    this.#log.info({ nodes: [...wanted] }, "cluster.json is read again");
    for (const [id, child] of this.#sidecars) {
      if (wanted.has(id)) continue;
      this.#sidecars.delete(id);
      await child.stop(sidecarStopTimeoutMs);
    }
    for (const id of wanted) if (!this.#sidecars.has(id)) await this.#startSidecar(id);
    // One after the other, so that somebody always watches.
    for (const [id, child] of this.#orchestrators) {
      await child.stop(orchestratorStopTimeoutMs);
      await this.#startOrchestrator(id);
    }
    for (const child of this.#gateways.values()) child.hangUp();
  }

  async #startSidecar(id: string): Promise<void> {
    const { dir } = this.#cluster;
    const config = paths.sidecarConfig(dir, id);
    await this.#removeLeftover(paths.sidecarPid(dir, id), config);
    const args = [sidecarMain, "--config", config];
    this.#start(this.#sidecars, { name: id, args, logFile: paths.sidecarLog(dir, id) });
  }

  async #startOrchestrator(id: string): Promise<void> {
    const { dir } = this.#cluster;
    const config = paths.orchestratorConfig(dir, id);
    await this.#removeLeftover(paths.orchestratorPid(dir, id), config);
    const args = [orchestratorMain, "--config", config];
    this.#start(this.#orchestrators, { name: id, args, logFile: paths.orchestratorLog(dir, id) });
  }

  async #startGateway(id: string): Promise<void> {
    const { dir } = this.#cluster;
    const config = paths.gatewayConfig(dir, id);
    await this.#removeLeftover(paths.gatewayPid(dir, id), config);
    const args = [gatewayMain, "--config", config];
    this.#start(this.#gateways, { name: id, args, logFile: paths.gatewayLog(dir, id) });
  }

  /** What a dead supervisor left behind; Postgres stays, the new sidecar adopts it. */
  #removeLeftover(pidFile: string, mark: string): Promise<void> {
    return killLeftover(pidFile, mark, (pid) =>
      this.#log.warn({ pid, mark }, "taking over from an earlier supervisor"),
    );
  }

  #start(children: Map<string, Supervised>, spec: ChildSpec): void {
    const child = new Supervised(spec, { log: this.#log, fatalCodes: new Set([2]) });
    children.set(spec.name, child);
    child.start();
  }

  stop(reason: string): Promise<void> {
    this.#stopped ??= this.#stopAll(reason);
    return this.#stopped;
  }

  /** Orchestrators first, so that nobody reacts; then the leader, whose shutdown checkpoint needs its followers. */
  async #stopAll(reason: string): Promise<void> {
    this.#log.info({ reason }, "stopping the cluster");
    await Promise.all(
      [...this.#orchestrators.values()].map((child) => child.stop(orchestratorStopTimeoutMs)),
    );
    await Promise.all([...this.#gateways.values()].map((child) => child.stop(gatewayStopTimeoutMs)));
    const leader = await leaderOf(this.#cluster);
    if (leader !== undefined) await this.#sidecars.get(leader)?.stop(sidecarStopTimeoutMs);
    const rest = [...this.#sidecars].filter(([id]) => id !== leader);
    await Promise.all(rest.map(([, child]) => child.stop(sidecarStopTimeoutMs)));
    this.#log.info("stopped");
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { dir: { type: "string" }, lifeline: { type: "boolean" } } });
  if (values.dir === undefined) throw new Error("supervisor-main.ts needs --dir");
  const log = createLogger({ name: "supervisor", file: paths.supervisorLog(values.dir) });
  const pidFile = paths.supervisorPid(values.dir);
  const other = livePid(pidFile, values.dir);
  if (other !== undefined) throw new Error(`another supervisor (process ${other}) runs this cluster`);
  writeFileSync(pidFile, `${process.pid}\n`);
  const supervisor = new Supervisor(openCluster(values.dir), log);

  const end = (reason: string): void => {
    supervisor
      .stop(reason)
      .then(() => {
        unlinkSync(pidFile);
        process.exit(0);
      })
      .catch((error: unknown) => {
        log.error({ err: error }, "could not stop everything");
        process.exit(1);
      });
  };
  process.on("SIGTERM", () => end("SIGTERM"));
  process.on("SIGINT", () => end("SIGINT"));
  process.on("SIGHUP", () => void supervisor.reload().catch(() => undefined));
  if (values.lifeline === true) {
    process.stdin.on("end", () => end("the process that started it has ended")).resume();
    process.stdin.on("error", () => end("the process that started it has ended"));
  }
  keepLogsBounded(
    () => supervisor.logs,
    (error) => log.warn({ err: error }, "a log can't be rotated"),
  );
  await supervisor.start();
}

main().catch((error: unknown) => {
  console.error(messageOf(error));
  process.exit(1);
});
