// Asks every sidecar of the cluster once, all at the same time.
import { messageOf } from "@quorate/common";
import { connectSidecar, type NodeStatus } from "@quorate/proto";
import { type ClusterNode, findNode, type OpenCluster } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { type ClusterPicture, pictureOf, type Sighting } from "../view.ts";

const askTimeoutMs = 3_000;
const slowTries = 4;

export function grpcAddress(node: ClusterNode): string {
  return `${node.host}:${node.ports.grpc}`;
}

export function sightingOf(node: ClusterNode, status: NodeStatus | undefined, problem?: string): Sighting {
  const { id, zone, host, ports } = node;
  return {
    id,
    zone,
    host,
    port: ports.postgres,
    ...(ports.pooler === undefined ? {} : { poolerPort: ports.pooler }),
    status,
    ...(problem === undefined ? {} : { problem }),
  };
}

async function ask(node: ClusterNode): Promise<Sighting> {
  const client = connectSidecar(grpcAddress(node));
  try {
    return sightingOf(node, await client.getStatus({ deadlineMs: askTimeoutMs }));
  } catch (error) {
    return sightingOf(node, undefined, `its sidecar doesn't answer: ${messageOf(error)}`);
  } finally {
    client.close();
  }
}

export async function takeSightings(cluster: OpenCluster): Promise<Sighting[]> {
  return Promise.all(cluster.file.nodes.map(ask));
}

export async function takePicture(cluster: OpenCluster): Promise<ClusterPicture> {
  return pictureOf(cluster.file.cluster, await takeSightings(cluster));
}

/** Nobody listens, or nobody knows us: asking again changes nothing. */
function isDown({ nodes }: ClusterPicture): boolean {
  return nodes.every(({ problem }) =>
    /No connection established|ECONNREFUSED|cluster's token/.test(problem ?? ""),
  );
}

/** The picture of a cluster of which at least one sidecar answers. */
export async function takeLivePicture(cluster: OpenCluster): Promise<ClusterPicture> {
  const answers = ({ nodes }: ClusterPicture): boolean => nodes.some(({ problem }) => problem === null);
  let picture = await takePicture(cluster);
  // Slow is not the same as down.
  for (let more = 0; more < slowTries && !answers(picture) && !isDown(picture); more++)
    picture = await takePicture(cluster);
  if (!answers(picture)) {
    const strange = picture.nodes.find(({ problem }) => problem?.includes("cluster's token") === true);
    if (strange !== undefined)
      throw orchestratorErrors.error(
        "refused",
        `${strange.id}: ${strange.problem}: check tokenFile in cluster.json`,
      );
    throw orchestratorErrors.error(
      "not_running",
      `the cluster in ${cluster.dir} does not run: start it with "quorate up"`,
    );
  }
  return picture;
}

export async function leaderNode(cluster: OpenCluster): Promise<ClusterNode> {
  const picture = await takeLivePicture(cluster);
  if (picture.leader === null) {
    throw orchestratorErrors.error(
      "no_leader",
      'no node leads the cluster at the moment: see "quorate status", and "quorate logs" for the reason',
    );
  }
  return findNode(cluster, picture.leader);
}
