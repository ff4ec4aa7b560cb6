// quorate url, quorate psql
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import {
  accessOf,
  appUrl,
  type ClusterNode,
  findNode,
  gatewayUrl,
  type OpenCluster,
  openCluster,
} from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { leaderNode, takeLivePicture } from "./sightings.ts";
import { answer } from "./voice.ts";

export interface TargetOptions {
  readonly role?: string;
  readonly node?: string;
}

async function chooseNode(cluster: OpenCluster, { role, node }: TargetOptions): Promise<ClusterNode> {
  if (node !== undefined && role !== undefined) {
    throw orchestratorErrors.error("bad_option", "give either --role or --node, not both");
  }
  if (node !== undefined) return findNode(cluster, node);
  if (role === undefined || role === "leader") return leaderNode(cluster);
  const { nodes } = await takeLivePicture(cluster);
  const follower =
    nodes.find((each) => each.role === "follower" && each.streaming) ??
    nodes.find((each) => each.role === "follower");
  if (follower === undefined) {
    throw orchestratorErrors.error("no_leader", 'no follower runs at the moment: see "quorate status"');
  }
  return findNode(cluster, follower.id);
}

/** Every node in one URL, for clients of libpq, which find the one that accepts writes. */
function urlOfAll(cluster: OpenCluster): string {
  const first = cluster.file.nodes[0];
  if (first === undefined) throw orchestratorErrors.error("no_cluster", "the cluster has no nodes");
  const hosts = cluster.file.nodes.map((node) => `${node.host}:${node.ports.postgres}`).join(",");
  const single = `${first.host}:${first.ports.postgres}`;
  const all = new URL(appUrl(cluster, first));
  all.searchParams.set("target_session_attrs", "read-write");
  return all.href.replace(single, hosts);
}

async function wantedUrl(cluster: OpenCluster, options: TargetOptions & { all?: boolean }): Promise<string> {
  if (options.all === true) return urlOfAll(cluster);
  if (options.role === undefined && options.node === undefined)
    return gatewayUrl(cluster) ?? appUrl(cluster, await leaderNode(cluster));
  return appUrl(cluster, await chooseNode(cluster, options));
}

export async function url(
  dir: string,
  options: TargetOptions & { all?: boolean; json?: boolean },
): Promise<void> {
  const wanted = await wantedUrl(openCluster(dir), options);
  if (options.json === true) answer({ url: wanted });
  else console.log(wanted);
}

function findPsql(cluster: OpenCluster): string {
  const built = path.join(cluster.file.binDir, "psql");
  return existsSync(built) ? built : "psql";
}

export async function psql(dir: string, options: TargetOptions, args: readonly string[]): Promise<number> {
  const cluster = openCluster(dir);
  const node = await chooseNode(cluster, options);
  const { user, database, passwordFile } = cluster.file.app;
  const { tls } = accessOf(cluster);
  // The password goes by the environment: arguments are visible to every user of the machine.
  const env = {
    ...process.env,
    PGHOST: node.host,
    PGPORT: String(node.ports.postgres),
    PGUSER: user,
    PGDATABASE: database,
    PGPASSWORD: readFileSync(path.resolve(cluster.dir, passwordFile), "utf8").trimEnd(),
    ...(tls === undefined ? {} : { PGSSLMODE: "verify-full", PGSSLROOTCERT: tls.ca }),
  };
  const child = spawn(findPsql(cluster), args, { stdio: "inherit", env });
  process.on("SIGINT", () => undefined); // psql's own business: it cancels the query
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(new Error(`could not start psql: ${error.message}`)));
    child.once("exit", (code) => resolve(code ?? 1));
  });
}
