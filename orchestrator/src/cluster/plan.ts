// Pure: the options of `quorate up` become the contents of cluster.json and of each sidecar.json.
import { nodeId } from "@quorate/consensus/types.ts";
import type { ClusterFile, SidecarConfigInput } from "@quorate/sidecar/config.ts";
import { orchestratorErrors } from "../error-codes.ts";

export interface UpOptions {
  readonly nodes?: number;
  readonly zones?: readonly string[];
  readonly policy?: string;
  readonly basePort?: number;
  /** False: without a gateway. */
  readonly gateway?: boolean;
}

export interface PlanInput extends UpOptions {
  readonly cluster: string;
  readonly binDir: string;
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
}

export const defaultNodes = 3;
export const defaultZones: readonly string[] = ["a", "b", "c"];
export const defaultPolicy = "majority";
export const defaultBasePort = 5500;
export const maxNodes = 20;

const zonePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/;
const host = "127.0.0.1";

export function parseNodeCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > maxNodes) {
    throw orchestratorErrors.error(
      "bad_option",
      `--nodes ${text}: give a whole number from 1 to ${maxNodes}`,
    );
  }
  return count;
}

export function parseZones(text: string): string[] {
  const zones = text.split(",").map((zone) => zone.trim());
  const bad = zones.find((zone) => !zonePattern.test(zone));
  if (bad !== undefined) {
    throw orchestratorErrors.error(
      "bad_option",
      `--zones ${text}: ${bad === "" ? "an empty name" : `"${bad}"`} is no zone name; ` +
        "give names of letters, digits, _, . and - with commas between them, like --zones a,b,c",
    );
  }
  if (new Set(zones).size !== zones.length) {
    throw orchestratorErrors.error(
      "bad_option",
      `--zones ${text}: a zone is named twice; name each zone once`,
    );
  }
  return zones;
}

export function parseBasePort(text: string): number {
  const port = Number(text);
  const highest = 65_535 - 6 * portStride(maxNodes);
  if (!Number.isInteger(port) || port < 1024 || port > highest) {
    throw orchestratorErrors.error(
      "bad_option",
      `--base-port ${text}: give a whole number from 1024 to ${highest}`,
    );
  }
  return port;
}

/** Distance between the port ranges of Postgres, gRPC, HTTP, the orchestrators, and the nodes' own gateways. */
export function portStride(nodes: number): number {
  return nodes < 10 ? 10 : 30;
}

export function planCluster(input: PlanInput): ClusterFile {
  const count = input.nodes ?? defaultNodes;
  const zones = input.zones ?? defaultZones;
  const base = input.basePort ?? defaultBasePort;
  const stride = portStride(count);
  const zoneOf = (index: number): string => zones[(index - 1) % zones.length] ?? "a";
  const numbers = Array.from({ length: count }, (_, i) => i + 1);
  const used = zones.slice(0, count);
  return {
    version: 1,
    cluster: input.cluster,
    host,
    policy: input.policy ?? defaultPolicy,
    binDir: input.binDir,
    app: { user: "app", database: "app", passwordFile: "secrets/app.password" },
    tokenFile: "secrets/api.token",
    nodes: numbers.map((i) => ({
      id: nodeId(`n${i}`),
      zone: zoneOf(i),
      region: "local",
      host,
      ports: {
        postgres: base + i,
        grpc: base + stride + i,
        http: base + 2 * stride + i,
        ...(input.gateway === false
          ? {}
          : { pooler: base + 4 * stride + i, poolerRead: base + 5 * stride + i }),
      },
    })),
    orchestrators: used.map((zone, index) => ({
      id: nodeId(`o${index + 1}`),
      zone,
      host,
      httpPort: base + 3 * stride + index + 1,
    })),
    gateways:
      input.gateway === false
        ? []
        : [
            {
              id: nodeId("g1"),
              zone: zoneOf(1),
              host,
              ports: { any: base, read: base + stride, http: base + 2 * stride },
            },
          ],
  };
}

export function sidecarConfigFor(
  cluster: ClusterFile,
  node: ClusterFile["nodes"][number],
  settings: Readonly<Record<string, string | number | boolean>> = {},
  backup?: SidecarConfigInput["backup"],
): SidecarConfigInput {
  return {
    ...(backup === undefined ? {} : { backup }),
    cluster: cluster.cluster,
    node: { id: node.id, zone: node.zone, region: node.region },
    dir: ".",
    host: node.host,
    ports: node.ports,
    postgres: { binDir: cluster.binDir, settings: { ...settings } },
    ...(cluster.tokenFile === undefined ? {} : { tokenFile: `../../${cluster.tokenFile}` }),
    replication: { passwordFile: "../../secrets/replication.password" },
    monitor: { passwordFile: "../../secrets/monitor.password" },
    app: {
      user: cluster.app.user,
      database: cluster.app.database,
      passwordFile: `../../${cluster.app.passwordFile}`,
    },
    ...(cluster.gateways.length === 0 ? {} : { gateway: { passwordFile: "../../secrets/gateway.password" } }),
  };
}

export function allPorts(cluster: ClusterFile): { port: number; purpose: string }[] {
  return [
    ...cluster.nodes.flatMap(({ id, ports }) => [
      { port: ports.postgres, purpose: `Postgres of ${id}` },
      { port: ports.grpc, purpose: `gRPC of ${id}` },
      { port: ports.http, purpose: `HTTP of ${id}` },
      ...(ports.pooler === undefined ? [] : [{ port: ports.pooler, purpose: `clients of ${id}` }]),
      ...(ports.poolerRead === undefined
        ? []
        : [{ port: ports.poolerRead, purpose: `reading clients of ${id}` }]),
    ]),
    ...cluster.orchestrators.map(({ id, httpPort }) => ({ port: httpPort, purpose: `HTTP of ${id}` })),
    ...cluster.gateways.flatMap(({ id, ports }) => [
      { port: ports.any, purpose: `clients of the gateway ${id}` },
      { port: ports.read, purpose: `reading clients of ${id}` },
      { port: ports.http, purpose: `HTTP of ${id}` },
    ]),
  ];
}

/** What the options ask for that the existing cluster is not; undefined when they agree. */
export function contradiction(existing: ClusterFile, options: UpOptions): string | undefined {
  const { nodes } = existing;
  if (options.nodes !== undefined && options.nodes !== nodes.length) {
    return `it has ${nodes.length} nodes, --nodes says ${options.nodes}`;
  }
  const zones = [...new Set(nodes.map(({ zone }) => zone))];
  const asked = options.zones?.slice(0, nodes.length);
  if (asked !== undefined && asked.join(",") !== zones.join(",")) {
    return `its zones are ${zones.join(",")}, --zones says ${options.zones?.join(",")}`;
  }
  if (options.policy !== undefined && options.policy !== existing.policy) {
    return `its policy is ${existing.policy}, --policy says ${options.policy}`;
  }
  const base = (nodes[0]?.ports.postgres ?? 1) - 1;
  if (options.basePort !== undefined && options.basePort !== base) {
    return `its base port is ${base}, --base-port says ${options.basePort}`;
  }
  return undefined;
}
