// quorate up: from nothing, or from a stopped cluster, to a running one.
import { spawn } from "node:child_process";
import { existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { guardedGet, isAlive, messageOf, poll } from "@quorate/common";
import type { BackupConfigInput } from "@quorate/sidecar/backup/backup-config.ts";
import { backupSection, hasOwnKey, isUsual } from "../cluster/backup-section.ts";
import {
  accessOf,
  appUrl,
  checkReachable,
  clusterExists,
  findNode,
  gatewayUrl,
  type OpenCluster,
  openCluster,
  openDirToPostgres,
  paths,
  updateBinDir,
  writeCluster,
} from "../cluster/files.ts";
import { allPorts, contradiction, defaultPolicy, planCluster, type UpOptions } from "../cluster/plan.ts";
import { isPortFree, livePid } from "../cluster/processes.ts";
import { supervisorMain } from "../cluster/programs.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { rulesetFor } from "../policy-text.ts";
import { bringUp, cohortNodes } from "./bring-up.ts";
import { supervisorPid } from "./down.ts";
import { watchUntilSignal } from "./status.ts";
import { answer, say } from "./voice.ts";

export interface UpRequest extends UpOptions {
  readonly dir: string;
  readonly detach: boolean;
  /** False: without backups; a file: with this section instead of the usual one. */
  readonly backup?: boolean | string;
  readonly settings?: Readonly<Record<string, string>>;
}

const clusterName = "main";
const supervisorStartTimeoutMs = 60_000;
const stopTimeoutMs = 120_000;
const gatewayStartTimeoutMs = 20_000;
const healthTimeoutMs = 2_000;

const progress = say;

/** All that can be refused is refused here, before anything is built or written. */
async function checkRequest(request: UpRequest): Promise<void> {
  const { dir } = request;
  if (clusterExists(dir)) {
    const { file } = openCluster(dir);
    const difference = contradiction(file, request);
    if (difference === undefined) return;
    throw orchestratorErrors.error(
      "cluster_differs",
      `${dir} holds another cluster than asked for: ${difference}. Start it as it is with "quorate up", ` +
        "or choose another directory with --dir",
    );
  }
  if (existsSync(dir) && readdirSync(dir).length > 0) {
    throw orchestratorErrors.error(
      "directory_in_use",
      `${dir} is not empty and holds no cluster: choose an empty or new directory with --dir`,
    );
  }
  const file = backupFile(request);
  if (file !== undefined) backupSection(file, "/");
  const planned = planCluster({ ...request, cluster: clusterName, binDir: "/" });
  rulesetFor(request.policy ?? defaultPolicy, cohortNodes(planned), 1);
  checkReachable(dir);
  for (const { port, purpose } of allPorts(planned)) {
    if (await isPortFree(planned.host, port)) continue;
    throw orchestratorErrors.error(
      "port_taken",
      `port ${port} (${purpose}) is taken by another program: choose other ports with --base-port, or stop it`,
    );
  }
}

/** $QUORATE_BIN_DIR when there is a build already (as in an image), else our own, built on the first time. */
async function postgresPrograms(): Promise<string> {
  const given = process.env["QUORATE_BIN_DIR"];
  if (given === undefined || given === "") {
    const { ensurePostgres } = await import("../../../scripts/build-postgres.ts");
    return (await ensurePostgres()).bin;
  }
  const binDir = path.resolve(given);
  if (existsSync(path.join(binDir, "postgres"))) return binDir;
  throw orchestratorErrors.error(
    "bad_option",
    `QUORATE_BIN_DIR=${given} holds no postgres: give the bin directory of patched PostgreSQL, or unset it`,
  );
}

/** Without the key no backup can be read: it is shown once, to be kept elsewhere. */
function showRepositoryKey(dir: string, backup: BackupConfigInput): void {
  const file = paths.repositoryKey(dir);
  const { repository } = backup;
  const where = repository.type === "s3" ? `bucket ${repository.bucket}` : repository.path;
  const place = isUsual(backup) ? paths.repository(dir) : where;
  progress(`Backups go to ${place}, encrypted. Keep a copy of the key (${file}) elsewhere:`);
  progress(`  ${readFileSync(file, "utf8").trim()}`);
}

function backupFile({ backup }: UpRequest): string | undefined {
  return typeof backup === "string" ? path.resolve(backup) : undefined;
}

async function pgbackrestProgram(): Promise<string> {
  const { ensurePgbackrest } = await import("../../../scripts/pgbackrest.ts");
  try {
    return (await ensurePgbackrest()).command;
  } catch (error) {
    throw orchestratorErrors.error(
      "no_backup_program",
      `backups need pgBackRest: ${messageOf(error)}\nOr start the cluster without backups: quorate up --no-backup`,
      { cause: error },
    );
  }
}

async function prepareFiles(request: UpRequest): Promise<OpenCluster> {
  const binDir = await postgresPrograms();
  const { dir, settings = {} } = request;
  if (clusterExists(dir)) return updateBinDir(openCluster(dir), binDir);
  const plan = planCluster({ ...request, cluster: clusterName, binDir });
  const backup =
    request.backup === false ? undefined : backupSection(backupFile(request), await pgbackrestProgram());
  const cluster = writeCluster(dir, plan, settings, backup);
  openDirToPostgres(dir);
  if (backup !== undefined && hasOwnKey(backup)) showRepositoryKey(dir, backup);
  return cluster;
}

/** With a lifeline the supervisor stops the cluster when this process ends, however it ends. */
async function startSupervisor(dir: string, lifeline: boolean): Promise<number> {
  const output = openSync(paths.supervisorLog(dir), "a");
  const args = [supervisorMain, "--dir", dir, ...(lifeline ? ["--lifeline"] : [])];
  const child = spawn(process.execPath, args, {
    detached: true,
    stdio: [lifeline ? "pipe" : "ignore", output, output],
    cwd: "/",
  });
  let problem: string | undefined;
  child.once("error", (error) => {
    problem = error.message;
  });
  child.once("exit", (code) => {
    problem = `exit code ${code}, see ${paths.supervisorLog(dir)}`;
  });
  await poll(
    () => {
      if (problem !== undefined) throw new Error(`the supervisor could not start: ${problem}`);
      return livePid(paths.supervisorPid(dir), dir) === child.pid;
    },
    { what: "the supervisor to start", timeoutMs: supervisorStartTimeoutMs },
  );
  child.unref();
  if (child.pid === undefined) throw new Error("the supervisor has no process id");
  return child.pid;
}

function signalled(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
      process.once(signal, () => resolve(signal));
  });
}

export async function up(request: UpRequest): Promise<void> {
  await checkRequest(request);
  const cluster = await prepareFiles(request);
  const running = supervisorPid(request.dir);
  const foreground = !request.detach && running === undefined;
  if (running === undefined) {
    progress(`starting ${cluster.file.nodes.length} nodes in ${request.dir}`);
    await startSupervisor(request.dir, foreground);
  }
  const interrupted = foreground ? signalled() : new Promise<never>(() => undefined);
  let said = progress;
  const outcome = await Promise.race([
    bringUp(cluster, (line) => said(line)),
    interrupted.then(() => "interrupted" as const),
  ]);
  if (outcome === "interrupted") {
    said = () => undefined;
    await stopSupervisor(request.dir);
    return;
  }
  await gatewayListens(cluster);
  announce(cluster, outcome.leader);
  answer({
    dir: request.dir,
    leader: outcome.leader,
    url: gatewayUrl(cluster) ?? appUrl(cluster, findNode(cluster, outcome.leader)),
    readUrl: gatewayUrl(cluster, "read") ?? null,
    ranAlready: running !== undefined,
  });
  if (!foreground) {
    if (running !== undefined)
      progress(`It was running already. Stop it with: quorate down --dir ${request.dir}`);
    return;
  }
  const url = gatewayUrl(cluster) ?? appUrl(cluster, findNode(cluster, outcome.leader));
  if (process.stdout.isTTY) await watchUntilSignal(cluster, false, `\n${url}\nCtrl-C stops the cluster.\n`);
  else {
    progress("Running until this process is stopped.");
    // A signal handler alone doesn't keep Node running.
    const awake = setInterval(() => undefined, 60_000);
    await interrupted.finally(() => clearInterval(awake));
  }
  await stopSupervisor(request.dir);
}

/** A cluster without its front door is a cluster all the same: then that is said. */
async function gatewayListens(cluster: OpenCluster): Promise<void> {
  const { dir, file } = cluster;
  const { tls } = accessOf(cluster);
  for (const { id, host, ports } of file.gateways) {
    const asked = {
      host,
      port: ports.http,
      path: "/health",
      serverName: id,
      tls,
      timeoutMs: healthTimeoutMs,
    };
    const health = async (): Promise<true | undefined> => {
      const answer = await guardedGet(asked).catch(() => undefined);
      return answer?.code === 200 ? true : undefined;
    };
    await poll(health, { what: `the gateway ${id} to listen`, timeoutMs: gatewayStartTimeoutMs }).catch(() =>
      progress(`The gateway ${id} does not listen yet, see ${paths.gatewayLog(dir, id)}`),
    );
  }
}

function announce(cluster: OpenCluster, leader: string): void {
  const direct = appUrl(cluster, findNode(cluster, leader));
  const url = gatewayUrl(cluster);
  progress("");
  progress(`The cluster is up, ${leader} leads. Connect with`);
  progress("");
  progress(`  ${url ?? direct}`);
  progress("");
  if (url === undefined) return;
  progress(`It holds whoever leads. Reads only, on followers: ${gatewayUrl(cluster, "read")}`);
  const poolers = cluster.file.nodes.flatMap(({ id, host, ports }) =>
    ports.pooler === undefined ? [] : [`${id} ${host}:${ports.pooler}`],
  );
  if (poolers.length > 0) progress(`Each node has a gateway of its own, too: ${poolers.join(", ")}`);
  progress(`Past the gateway, to the leader of this moment: ${direct}`);
}

async function stopSupervisor(dir: string): Promise<void> {
  const pid = supervisorPid(dir);
  if (pid === undefined) return;
  progress("stopping the cluster …");
  process.kill(pid, "SIGTERM");
  await poll(() => !isAlive(pid), { what: "the cluster to stop", timeoutMs: stopTimeoutMs });
  progress("The cluster has stopped.");
}
