// The directory of a local cluster (docs/data-root.md): where it is, what the CLI writes into it.
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { findOsUser, type OsUser } from "@quorate/common";
import { type ClientAccess, useClientAccess } from "@quorate/proto";
import type { BackupConfigInput } from "@quorate/sidecar/backup/backup-config.ts";
import { type ClusterFile, loadClusterFile } from "@quorate/sidecar/config.ts";
import { orchestratorErrors } from "../error-codes.ts";
import type { OrchestratorConfigInput } from "../orchestrator-config.ts";
import { sidecarConfigFor } from "./plan.ts";

export interface OpenCluster {
  readonly dir: string;
  readonly file: ClusterFile;
}

export type ClusterNode = ClusterFile["nodes"][number];
export type ClusterOrchestrator = ClusterFile["orchestrators"][number];

export function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** --dir, else $QUORATE_DIR, else a place that fits the user: root's must be reachable by user postgres. */
export function resolveDir(option: string | undefined): string {
  const chosen = option ?? process.env["QUORATE_DIR"];
  if (chosen !== undefined && chosen !== "") return path.resolve(chosen);
  if (isRoot()) return "/var/lib/quorate/cluster";
  const dataHome = process.env["XDG_DATA_HOME"] ?? path.join(homedir(), ".local", "share");
  return path.join(dataHome, "quorate", "cluster");
}

export const paths = {
  clusterFile: (dir: string): string => path.join(dir, "cluster.json"),
  secrets: (dir: string): string => path.join(dir, "secrets"),
  node: (dir: string, id: string): string => path.join(dir, "nodes", id),
  sidecarConfig: (dir: string, id: string): string => path.join(dir, "nodes", id, "sidecar.json"),
  sidecarPid: (dir: string, id: string): string => path.join(dir, "nodes", id, "sidecar.pid"),
  sidecarLog: (dir: string, id: string): string => path.join(dir, "nodes", id, "log", "sidecar.log"),
  postgresLog: (dir: string, id: string): string => path.join(dir, "nodes", id, "log", "postgres.log"),
  postmasterPid: (dir: string, id: string): string => path.join(dir, "nodes", id, "data", "postmaster.pid"),
  orchestrator: (dir: string, id: string): string => path.join(dir, "orchestrators", id),
  orchestratorConfig: (dir: string, id: string): string =>
    path.join(dir, "orchestrators", id, "orchestrator.json"),
  orchestratorPid: (dir: string, id: string): string =>
    path.join(dir, "orchestrators", id, "orchestrator.pid"),
  orchestratorLog: (dir: string, id: string): string =>
    path.join(dir, "orchestrators", id, "log", "orchestrator.log"),
  gateway: (dir: string, id: string): string => path.join(dir, "gateways", id),
  gatewayConfig: (dir: string, id: string): string => path.join(dir, "gateways", id, "gateway.json"),
  gatewayPid: (dir: string, id: string): string => path.join(dir, "gateways", id, "gateway.pid"),
  gatewayLog: (dir: string, id: string): string => path.join(dir, "gateways", id, "log", "gateway.log"),
  repository: (dir: string): string => path.join(dir, "backup"),
  repositoryKey: (dir: string): string => path.join(dir, "secrets", "repository.key"),
  supervisorPid: (dir: string): string => path.join(dir, "supervisor.pid"),
  supervisorLog: (dir: string): string => path.join(dir, "supervisor.log"),
};

export function clusterExists(dir: string): boolean {
  return existsSync(paths.clusterFile(dir));
}

export function openCluster(dir: string): OpenCluster {
  if (!clusterExists(dir)) {
    throw orchestratorErrors.error(
      "no_cluster",
      `there is no cluster in ${dir} (no cluster.json): start one with "quorate up", ` +
        "or name its directory with --dir or QUORATE_DIR",
    );
  }
  const file = loadClusterFile(paths.clusterFile(dir));
  return known({ dir, file });
}

/** This process may talk to the cluster's nodes. */
function known(cluster: OpenCluster): OpenCluster {
  const addresses = cluster.file.nodes.map(({ host, ports }) => `${host}:${ports.grpc}`);
  useClientAccess(accessOf(cluster), addresses);
  return cluster;
}

/** What the CLI shows to the parts of this cluster. */
export function accessOf({ dir, file: { tls, tokenFile } }: OpenCluster): ClientAccess {
  const at = (name: string): string => path.resolve(dir, name);
  return {
    tls: tls === undefined ? undefined : { ca: at(tls.ca), cert: at(tls.cert), key: at(tls.key) },
    tokenFile: tokenFile === undefined ? undefined : at(tokenFile),
  };
}

export function findNode(cluster: OpenCluster, id: string): ClusterNode {
  const node = cluster.file.nodes.find((candidate) => candidate.id === id);
  if (node === undefined) {
    const known = cluster.file.nodes.map((candidate) => candidate.id).join(", ");
    throw orchestratorErrors.error("unknown_node", `there is no node "${id}": the nodes are ${known}`);
  }
  return node;
}

/** Write everything that a new cluster needs before its first process starts. */
export function writeCluster(
  dir: string,
  file: ClusterFile,
  settings: Readonly<Record<string, string | number | boolean>> = {},
  backup?: BackupConfigInput,
): OpenCluster {
  mkdirSync(dir, { recursive: true, mode: 0o755 });
  mkdirSync(paths.secrets(dir), { recursive: true, mode: 0o700 });
  writeSecret(path.join(paths.secrets(dir), "replication.password"));
  writeSecret(path.join(paths.secrets(dir), "app.password"));
  writeSecret(path.join(paths.secrets(dir), "monitor.password"));
  if (file.tokenFile !== undefined) writeSecret(path.resolve(dir, file.tokenFile));
  if (backup !== undefined) {
    writeSecret(paths.repositoryKey(dir));
    makeRepository(paths.repository(dir));
  }
  for (const node of file.nodes) {
    mkdirSync(path.join(paths.node(dir, node.id), "log"), { recursive: true, mode: 0o755 });
    writeJson(paths.sidecarConfig(dir, node.id), sidecarConfigFor(file, node, settings, backup));
  }
  writeOrchestratorConfigs(dir, file);
  if (file.gateways.length > 0) {
    const password = path.join(paths.secrets(dir), "gateway.password");
    writeSecret(password);
    letPostgresRead(paths.secrets(dir), 0o710);
    for (const name of [
      password,
      ...(file.tokenFile === undefined ? [] : [path.resolve(dir, file.tokenFile)]),
    ])
      letPostgresRead(name);
  }
  writeGatewayConfigs(dir, file);
  writeJson(paths.clusterFile(dir), file);
  return known({ dir, file });
}

/** Another build of Postgres than last time: both files name its bin directory. */
export function updateBinDir(cluster: OpenCluster, binDir: string): OpenCluster {
  if (cluster.file.binDir === binDir) return cluster;
  const file = { ...cluster.file, binDir };
  for (const node of file.nodes) {
    const name = paths.sidecarConfig(cluster.dir, node.id);
    const old = JSON.parse(readFileSync(name, "utf8")) as { postgres: object };
    writeJson(name, { ...old, postgres: { ...old.postgres, binDir } });
  }
  writeJson(paths.clusterFile(cluster.dir), file);
  return { dir: cluster.dir, file };
}

export function writeClusterFile(dir: string, file: ClusterFile): void {
  writeJson(paths.clusterFile(dir), file);
}

/** What may have been put there since it was made. */
function operatorsOwn(
  name: string,
): Pick<OrchestratorConfigInput, "tls" | "insecure" | "silentMs" | "dampFree"> {
  if (!existsSync(name)) return {};
  const { tls, insecure, silentMs, dampFree } = JSON.parse(
    readFileSync(name, "utf8"),
  ) as OrchestratorConfigInput;
  return {
    ...(tls === undefined ? {} : { tls }),
    ...(insecure === undefined ? {} : { insecure }),
    ...(silentMs === undefined ? {} : { silentMs }),
    ...(dampFree === undefined ? {} : { dampFree }),
  };
}

export function writeOrchestratorConfigs(dir: string, file: ClusterFile): void {
  for (const orchestrator of file.orchestrators) {
    mkdirSync(path.join(paths.orchestrator(dir, orchestrator.id), "log"), { recursive: true, mode: 0o755 });
    const config: OrchestratorConfigInput = {
      ...operatorsOwn(paths.orchestratorConfig(dir, orchestrator.id)),
      cluster: file.cluster,
      ...orchestrator,
      ...(file.tokenFile === undefined ? {} : { tokenFile: `../../${file.tokenFile}` }),
      nodes: file.nodes.map((node) => `${node.host}:${node.ports.grpc}`),
      policies: [file.policy],
      logLevel: "info",
    };
    writeJson(paths.orchestratorConfig(dir, orchestrator.id), config);
  }
}

/** What an operator has changed in a gateway's configuration stays; who the nodes are is ours. */
export function writeGatewayConfigs(dir: string, file: ClusterFile): void {
  for (const { id, zone, host, ports } of file.gateways) {
    mkdirSync(path.join(paths.gateway(dir, id), "log"), { recursive: true, mode: 0o755 });
    const name = paths.gatewayConfig(dir, id);
    const before: object = existsSync(name)
      ? (JSON.parse(readFileSync(name, "utf8")) as object)
      : {
          authentication: { user: "quorate_gateway", passwordFile: "../../secrets/gateway.password" },
          admin: { users: [file.app.user] },
          drainMs: 3_000,
          ...(postgresOwner() === undefined ? {} : { runAs: postgresOwner()?.name }),
        };
    writeJson(name, {
      ...before,
      zone,
      ...(file.tokenFile === undefined ? {} : { sidecarTokenFile: `../../${file.tokenFile}` }),
      listen: { host, port: ports.any, readPort: ports.read },
      metrics: { host, port: ports.http },
      sidecars: file.nodes.map((node) => ({ host: node.host, grpcPort: node.ports.grpc })),
    });
  }
}

/** The default: a directory of the cluster, encrypted. Relative to a node's directory, like all in sidecar.json. */
export function localBackup(pgbackrest: string): BackupConfigInput {
  return {
    pgbackrest,
    repository: { type: "posix", path: "../../backup" },
    cipherKeyFile: "../../secrets/repository.key",
  };
}

/** It belongs to whom Postgres runs as, who writes into it. */
function makeRepository(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const owner = postgresOwner();
  if (owner !== undefined) chownSync(directory, owner.uid, owner.gid);
}

/** Whom Postgres runs as if root starts it, and gateways with it. */
function postgresOwner(): OsUser | undefined {
  return isRoot() ? findOsUser("postgres") : undefined;
}

/** It stays root's, so that who reads it can't change it. A directory may be entered, not listed (0710). */
export function letPostgresRead(name: string, mode = 0o640): void {
  const owner = postgresOwner();
  if (owner === undefined) return;
  chownSync(name, 0, owner.gid);
  chmodSync(name, mode);
}

function writeSecret(name: string): void {
  if (!existsSync(name)) writeFileSync(name, `${randomBytes(24).toString("base64url")}\n`, { mode: 0o600 });
}

export function writeJson(name: string, value: unknown): void {
  writeFileSync(`${name}.new`, `${JSON.stringify(value, undefined, 2)}\n`);
  renameSync(`${name}.new`, name);
}

/** The first directory on the way to `dir` that others may not enter; undefined when all are open or we aren't root. */
export function closedParent(dir: string): string | undefined {
  if (!isRoot()) return undefined;
  const parts = path.resolve(dir).split(path.sep);
  for (let i = 1; i <= parts.length; i++) {
    const parent = parts.slice(0, i).join(path.sep) || path.sep;
    if (existsSync(parent) && (statSync(parent).mode & 0o001) === 0) return parent;
  }
  return undefined;
}

export function checkReachable(dir: string): void {
  const closed = closedParent(dir);
  if (closed === undefined) return;
  throw orchestratorErrors.error(
    "directory_closed",
    `Postgres runs as user postgres, who can't enter ${closed}: choose another place with --dir ` +
      `(for example /var/lib/quorate/cluster), or run: chmod o+x ${closed}`,
  );
}

/** Open the cluster's own directory to user postgres (a umask may have closed it). */
export function openDirToPostgres(dir: string): void {
  if (isRoot()) chmodSync(dir, statSync(dir).mode | 0o001);
}

export function appUrl(cluster: OpenCluster, node: ClusterNode): string {
  return `${appUrlAt(cluster, node.host, node.ports.postgres)}${tlsQuery(cluster)}`;
}

/** With certificates clients check whom they talk to; they need none of their own. */
function tlsQuery(cluster: OpenCluster): string {
  const { tls } = accessOf(cluster);
  return tls === undefined ? "" : `?sslmode=verify-full&sslrootcert=${encodeURIComponent(tls.ca)}`;
}

/** The connection string that holds for the cluster's life, if it has a gateway. */
export function gatewayUrl(cluster: OpenCluster, port: "any" | "read" = "any"): string | undefined {
  const gateway = cluster.file.gateways[0];
  return gateway === undefined ? undefined : appUrlAt(cluster, gateway.host, gateway.ports[port]);
}

function appUrlAt(cluster: OpenCluster, host: string, port: number): string {
  const { user, database, passwordFile } = cluster.file.app;
  const password = readFileSync(path.resolve(cluster.dir, passwordFile), "utf8").trimEnd();
  return `postgresql://${user}:${encodeURIComponent(password)}@${host}:${port}/${database}`;
}
