// quorate down [--purge]
import { existsSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import path from "node:path";
import { isAlive, poll, sendSignal } from "@quorate/common";
import { type OpenCluster, openCluster, paths } from "../cluster/files.ts";
import { livePid } from "../cluster/processes.ts";
import { answer, say } from "./voice.ts";

const stopTimeoutMs = 120_000;
const postmasterStopTimeoutMs = 30_000;

export type Progress = (line: string) => void;

export function supervisorPid(dir: string): number | undefined {
  return livePid(paths.supervisorPid(dir), dir);
}

/** Everything of this cluster that may still run without a supervisor, in the order in which to stop it. */
function leftovers({ dir, file }: OpenCluster): { name: string; pid: number; signal: NodeJS.Signals }[] {
  const found: { name: string; pid: number | undefined; signal: NodeJS.Signals }[] = [
    ...file.orchestrators.map(({ id }) => ({
      name: `orchestrator ${id}`,
      pid: livePid(paths.orchestratorPid(dir, id), paths.orchestratorConfig(dir, id)),
      signal: "SIGTERM" as const,
    })),
    ...file.gateways.map(({ id }) => ({
      name: `gateway ${id}`,
      pid: livePid(paths.gatewayPid(dir, id), paths.gatewayConfig(dir, id)),
      signal: "SIGTERM" as const,
    })),
    ...file.nodes.map(({ id }) => ({
      name: `sidecar ${id}`,
      pid: livePid(paths.sidecarPid(dir, id), paths.sidecarConfig(dir, id)),
      signal: "SIGTERM" as const,
    })),
  ];
  return found.flatMap(({ name, pid, signal }) => (pid === undefined ? [] : [{ name, pid, signal }]));
}

/** Postgres whose sidecar is gone: fast shutdown, then immediate. */
async function stopPostmasters({ dir, file }: OpenCluster, progress: Progress): Promise<void> {
  await Promise.all(
    file.nodes.map(async ({ id }) => {
      const pid = livePid(paths.postmasterPid(dir, id));
      if (pid === undefined) return;
      progress(`stopping Postgres of ${id} (process ${pid})`);
      sendSignal(pid, "SIGINT");
      const what = `Postgres of ${id} to stop`;
      await poll(() => !isAlive(pid), { what, timeoutMs: postmasterStopTimeoutMs }).catch(async () => {
        sendSignal(pid, "SIGQUIT");
        await poll(() => !isAlive(pid), { what, timeoutMs: postmasterStopTimeoutMs });
      });
    }),
  );
}

/** Stops whatever of the cluster runs; false if nothing did. */
export async function stopCluster(cluster: OpenCluster, progress: Progress): Promise<boolean> {
  const { dir, file } = cluster;
  const supervisor = supervisorPid(dir);
  if (supervisor !== undefined) {
    progress("stopping the orchestrators, the sidecars and Postgres");
    sendSignal(supervisor, "SIGTERM");
    await poll(() => !isAlive(supervisor), {
      what: "the supervisor to stop the cluster",
      timeoutMs: stopTimeoutMs,
    });
  }
  const rest = leftovers(cluster);
  for (const { name, pid, signal } of rest) {
    progress(`stopping ${name} (process ${pid})`);
    sendSignal(pid, signal);
  }
  for (const { name, pid } of rest) {
    await poll(() => !isAlive(pid), { what: `${name} to stop`, timeoutMs: stopTimeoutMs });
  }
  const orphans = file.nodes.some(({ id }) => livePid(paths.postmasterPid(dir, id)) !== undefined);
  if (orphans) await stopPostmasters(cluster, progress);
  return supervisor !== undefined || rest.length > 0 || orphans;
}

/** Only what `up` and the nodes have made; a file of somebody else stays, and its directory with it. */
export function purge(dir: string): void {
  for (const name of ["nodes", "orchestrators", "gateways", "backup", "secrets", "tls"]) {
    rmSync(path.join(dir, name), { recursive: true, force: true });
  }
  for (const file of [paths.supervisorPid(dir), paths.supervisorLog(dir), paths.clusterFile(dir)]) {
    rmSync(file, { force: true });
  }
  if (existsSync(dir) && readdirSync(dir).length === 0) rmdirSync(dir);
}

export async function down(dir: string, options: { purge?: boolean }): Promise<void> {
  const cluster = openCluster(dir);
  const stopped = await stopCluster(cluster, say);
  say(stopped ? "The cluster has stopped." : "The cluster did not run.");
  const purged = options.purge === true;
  if (purged) {
    purge(dir);
    say(`Its data in ${dir} is removed, backups that lay there included.`);
  }
  answer({ stopped, purged });
}
