// Certificates for pgBackRest's own TLS, by which nodes on different machines reach each other's data and a repository
// on one of them. All nodes show the same common name: pgBackRest lets clients in by name, and a node that is being
// added stands on nobody's list yet.
import { readFileSync } from "node:fs";
import path from "node:path";
import { defaultTlsPort } from "@quorate/sidecar/backup/backup-config.ts";
import type { SidecarConfigInput } from "@quorate/sidecar/config.ts";
import { type ClusterNode, type OpenCluster, paths, writeJson } from "../cluster/files.ts";

export const backupClient = "quorate-backup";

export interface BackupHolder {
  readonly name: string;
  readonly node: string;
  readonly host: string;
  readonly dir: string;
}

function configOf(dir: string, id: string): SidecarConfigInput {
  return JSON.parse(readFileSync(paths.sidecarConfig(dir, id), "utf8")) as SidecarConfigInput;
}

/** Nodes with backups in a cluster of more than one machine; on one machine everything is in reach anyway. */
function nodesWithTransfer({ dir, file }: OpenCluster): ClusterNode[] {
  if (new Set(file.nodes.map(({ host }) => host)).size < 2) return [];
  return file.nodes.filter(({ id }) => configOf(dir, id).backup !== undefined);
}

export function backupHolders(cluster: OpenCluster): BackupHolder[] {
  return nodesWithTransfer(cluster).map(({ id, host }) => ({
    name: backupClient,
    node: id,
    host,
    dir: path.join(paths.node(cluster.dir, id), "tls", "backup"),
  }));
}

/** Into each sidecar.json, keeping a port that is there. Nodes on one machine get ports in a row. */
export function useBackupCertificates(cluster: OpenCluster): void {
  const nodes = nodesWithTransfer(cluster);
  for (const { id, host } of nodes) {
    const config = configOf(cluster.dir, id);
    if (config.backup === undefined) continue;
    const beside = nodes.filter((node) => node.host === host).findIndex((node) => node.id === id);
    const tls = {
      port: config.backup.tls?.port ?? defaultTlsPort + beside,
      certFile: "tls/backup/cert.pem",
      keyFile: "tls/backup/key.pem",
      caFile: "tls/backup/ca.pem",
      clients: [backupClient],
    };
    writeJson(paths.sidecarConfig(cluster.dir, id), { ...config, backup: { ...config.backup, tls } });
  }
}
