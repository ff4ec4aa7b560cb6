// The files of a local cluster when nodes come and go, and the supervisor's attention.
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { sendSignal } from "@quorate/common";
import { isNodeId, nodeId } from "@quorate/consensus/types.ts";
import type { SidecarConfigInput } from "@quorate/sidecar/config.ts";
import { orchestratorErrors } from "../error-codes.ts";
import {
  type ClusterNode,
  type OpenCluster,
  openCluster,
  paths,
  writeClusterFile,
  writeGatewayConfigs,
  writeJson,
  writeOrchestratorConfigs,
} from "./files.ts";
import { allPorts } from "./plan.ts";
import { livePid } from "./processes.ts";

export interface NewNode {
  readonly id?: string;
  readonly zone?: string;
  readonly observer?: boolean;
}

/** Pure: the node that would be added: the next free name, the zone with the fewest nodes, the next free ports. */
export function planNode({ file }: Pick<OpenCluster, "file">, wish: NewNode): ClusterNode {
  const ids = new Set<string>(file.nodes.map((node) => node.id));
  if (wish.id !== undefined && !isNodeId(wish.id))
    throw orchestratorErrors.error(
      "bad_option",
      `"${wish.id}" is no node id: a small letter, then a-z, 0-9, _ and -`,
    );
  if (wish.id !== undefined && ids.has(wish.id))
    throw orchestratorErrors.error("bad_option", `there is a node ${wish.id} already: choose another name`);
  let number = file.nodes.length + 1;
  while (ids.has(`n${number}`)) number += 1;
  const first = file.nodes[0];
  if (first === undefined) throw orchestratorErrors.error("no_cluster", "the cluster has no nodes");
  const taken = new Set(allPorts(file).map(({ port }) => port));
  let above = Math.max(...taken);
  const portNear = (base: number): number => {
    const wanted = base + number - 1;
    if (!taken.has(wanted)) {
      taken.add(wanted);
      return wanted;
    }
    do above += 1;
    while (taken.has(above));
    taken.add(above);
    return above;
  };
  return {
    id: nodeId(wish.id ?? `n${number}`),
    zone: wish.zone ?? emptiestZone(file.nodes),
    region: first.region,
    host: first.host,
    ports: {
      postgres: portNear(first.ports.postgres),
      grpc: portNear(first.ports.grpc),
      http: portNear(first.ports.http),
      ...(first.ports.pooler === undefined ? {} : { pooler: portNear(first.ports.pooler) }),
      ...(first.ports.poolerRead === undefined ? {} : { poolerRead: portNear(first.ports.poolerRead) }),
    },
    ...(wish.observer === true ? { observer: true } : {}),
  };
}

function emptiestZone(nodes: readonly ClusterNode[]): string {
  const count = new Map<string, number>();
  for (const { zone } of nodes) count.set(zone, (count.get(zone) ?? 0) + 1);
  const [zone] = [...count].sort(([a, m], [b, n]) => m - n || (a < b ? -1 : 1))[0] ?? ["a"];
  return zone;
}

/** Its settings are those of the other nodes. */
export function addNodeFiles(cluster: OpenCluster, node: ClusterNode): OpenCluster {
  const { dir, file } = cluster;
  const model = file.nodes[0];
  if (model === undefined) throw orchestratorErrors.error("no_cluster", "the cluster has no nodes");
  const text = readFileSync(paths.sidecarConfig(dir, model.id), "utf8");
  const config = JSON.parse(text) as SidecarConfigInput;
  mkdirSync(path.join(paths.node(dir, node.id), "log"), { recursive: true, mode: 0o755 });
  const { id, zone, region, host, ports } = node;
  writeJson(paths.sidecarConfig(dir, id), { ...config, node: { id, zone, region }, host, ports });
  return rewrite(cluster, [...file.nodes, { ...node, adding: true }]);
}

/** It has got where it was to be. */
export function markAdded({ dir, file }: OpenCluster, id: string): void {
  const nodes = file.nodes.map(({ adding, ...node }) =>
    node.id === id || adding === undefined ? node : { ...node, adding },
  );
  writeClusterFile(dir, { ...file, nodes });
}

export function removeNodeFiles(cluster: OpenCluster, id: string): OpenCluster {
  return rewrite(
    cluster,
    cluster.file.nodes.filter((node) => node.id !== id),
  );
}

export function removeNodeData(cluster: OpenCluster, id: string): void {
  rmSync(paths.node(cluster.dir, id), { recursive: true, force: true });
}

export function setPolicy(cluster: OpenCluster, policy: string): OpenCluster {
  const file = { ...cluster.file, policy };
  writeClusterFile(cluster.dir, file);
  writeOrchestratorConfigs(cluster.dir, file);
  return { dir: cluster.dir, file };
}

function rewrite(cluster: OpenCluster, nodes: readonly ClusterNode[]): OpenCluster {
  const file = { ...cluster.file, nodes: [...nodes] };
  writeClusterFile(cluster.dir, file);
  writeOrchestratorConfigs(cluster.dir, file);
  writeGatewayConfigs(cluster.dir, file);
  return openCluster(cluster.dir);
}

/** The supervisor starts what is new, stops what is gone, and restarts orchestrators that are to know of it. */
export function tellSupervisor(dir: string): void {
  const pid = livePid(paths.supervisorPid(dir), dir);
  if (pid === undefined)
    throw orchestratorErrors.error(
      "not_running",
      `the cluster in ${dir} does not run: start it with "quorate up"`,
    );
  sendSignal(pid, "SIGHUP");
}

export type Settings = Readonly<Record<string, string | number | boolean>>;

export function settingsOf(dir: string, id: string): Settings {
  const name = paths.sidecarConfig(dir, id);
  if (!existsSync(name)) return {};
  return (JSON.parse(readFileSync(name, "utf8")) as SidecarConfigInput).postgres.settings ?? {};
}

export function writeSettings({ dir, file }: OpenCluster, change: Settings): void {
  for (const { id } of file.nodes) {
    const name = paths.sidecarConfig(dir, id);
    const config = JSON.parse(readFileSync(name, "utf8")) as SidecarConfigInput;
    const settings = { ...config.postgres.settings, ...change };
    writeJson(name, { ...config, postgres: { ...config.postgres, settings } });
  }
}

/** A node that is being replaced: what it was like, and whether its old data is gone. */
export type Replacement = ClusterNode & { readonly left: boolean };

const replacementFile = (dir: string): string => path.join(dir, "replacing.json");

export function readReplacement(dir: string): Replacement | undefined {
  const name = replacementFile(dir);
  return existsSync(name) ? (JSON.parse(readFileSync(name, "utf8")) as Replacement) : undefined;
}

export function writeReplacement(dir: string, replacement: Replacement): void {
  writeJson(replacementFile(dir), replacement);
}

export function removeReplacement(dir: string): void {
  rmSync(replacementFile(dir), { force: true });
}
