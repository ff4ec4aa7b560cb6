// The two files that describe a cluster on disk (docs/data-root.md): sidecar.json, which a sidecar
// reads, and cluster.json, which the CLI and the coordinators read.

import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { QuorateError } from "@quorate/common";
import { isNodeId } from "@quorate/consensus/types.ts";
import { z } from "zod";
import { absoluteBackupConfig, backupConfigSchema } from "./backup/backup-config.ts";
import type { errorTable } from "./error-codes.ts";
import { poolerSettingsSchema } from "./pooler/pooler-settings.ts";
import { protectedSettings } from "./settings.ts";

const nodeIdSchema = z
  .string()
  .refine(isNodeId, "must be a lower-case letter followed by at most 62 of a-z, 0-9, _ and -");
const labelSchema = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, "must be a short name");
const portSchema = z.number().int().min(1).max(65535);
const portsSchema = z.strictObject({
  postgres: portSchema,
  grpc: portSchema,
  http: portSchema,
  /** The node's own gateway, which the sidecar runs: without a port there is none. */
  pooler: portSchema.optional(),
  /** Its port for reads. */
  poolerRead: portSchema.optional(),
});
const pathSchema = z.string().min(1);
const sqlNameSchema = z.string().regex(/^[a-z_][a-z0-9_]{0,62}$/, "must be a lower-case SQL identifier");

/** PEM files of `quorate certs init`. */
export const tlsSchema = z.strictObject({ ca: pathSchema, cert: pathSchema, key: pathSchema });

export const sidecarConfigSchema = z.strictObject({
  /** Name of the cluster; Bootstrap with another name is refused. */
  cluster: labelSchema,
  node: z.strictObject({
    id: nodeIdSchema,
    zone: labelSchema.default("a"),
    region: labelSchema.default("local"),
  }),
  /** The node's directory (data/, state/, run/, log/ are below it). */
  dir: pathSchema.default("."),
  /** Where other nodes, coordinators and clients reach this node; Postgres and gRPC listen there. */
  host: z.string().min(1).default("127.0.0.1"),
  ports: portsSchema,
  /** Both ends of every gRPC connection must show a certificate of this authority. */
  tls: tlsSchema.optional(),
  /** The cluster's token: callers show it where there are no certificates; over HTTP it suffices with them, too. */
  tokenFile: pathSchema.optional(),
  /** Do without certificates and token: answer anybody. Only on a network that nobody else can reach. */
  insecure: z.boolean().default(false),
  postgres: z.strictObject({
    /** bin directory of the patched Postgres that has the extension installed. */
    binDir: pathSchema,
    /** System user that runs Postgres when the sidecar is root; ignored otherwise. */
    osUser: z.string().min(1).default("postgres"),
    /** With certificates (tls) clients must use TLS, too; true: they needn't. Replication always does. */
    allowPlain: z.boolean().default(false),
    /** Extra or changed settings for quorate.conf; those that safety rests on can't be changed. */
    settings: z
      .record(z.string().regex(/^[a-z_][a-z0-9_.]*$/), z.union([z.string(), z.number(), z.boolean()]))
      .default({}),
  }),
  replication: z.strictObject({
    user: sqlNameSchema.default("quorate_replication"),
    passwordFile: pathSchema,
  }),
  app: z.strictObject({
    user: sqlNameSchema.default("app"),
    database: sqlNameSchema.default("app"),
    passwordFile: pathSchema,
  }),
  /** Monitoring's own account: it may see everything about the server, and nothing of the data. */
  monitor: z
    .strictObject({ user: sqlNameSchema.default("quorate_monitor"), passwordFile: pathSchema })
    .optional(),
  /** The gateways' own account: it may read who may log in, and nothing else. Made with the first node's data. */
  gateway: z
    .strictObject({ user: sqlNameSchema.default("quorate_gateway"), passwordFile: pathSchema })
    .optional(),
  /** Settings of the node's own gateway, as in gateway.json; where it listens and whom it asks is the sidecar's matter. */
  pooler: poolerSettingsSchema.default({}),
  /** Connections of Postgres that gateways don't get: for operators, monitoring, and whoever connects past them. */
  connections: z.strictObject({ reserved: z.number().int().min(0).max(10_000).default(10) }).prefault({}),
  /** Backups and the WAL archive (docs/backup.md); without it there are none. */
  backup: backupConfigSchema.optional(),
  /** What SIGTERM or SIGINT to the sidecar does to its Postgres. */
  onTerminate: z.enum(["stop", "leave"]).default("stop"),
  /** How long a fast stop may take before it becomes an immediate one. */
  stopTimeoutMs: z.number().int().min(100).max(600_000).default(20_000),
  logLevel: z.enum(["trace", "debug", "info", "warn", "error"]).default("info"),
});

/** What sidecar.json says, all paths absolute. */
export type SidecarConfig = z.infer<typeof sidecarConfigSchema>;
/** What may stand in sidecar.json (defaults left out). */
export type SidecarConfigInput = z.input<typeof sidecarConfigSchema>;

export const clusterFileSchema = z.strictObject({
  version: z.literal(1),
  cluster: labelSchema,
  host: z.string().min(1).default("127.0.0.1"),
  policy: z.string().min(1).default("majority"),
  binDir: pathSchema,
  app: z.strictObject({ user: sqlNameSchema, database: sqlNameSchema, passwordFile: pathSchema }),
  /** What the CLI shows to sidecars. */
  tls: tlsSchema.optional(),
  /** The cluster's token, which the CLI shows where there are no certificates. */
  tokenFile: pathSchema.optional(),
  nodes: z
    .array(
      z.strictObject({
        id: nodeIdSchema,
        zone: labelSchema,
        region: labelSchema,
        host: z.string().min(1),
        ports: portsSchema,
        /** Streams and applies, is never in the cohort. */
        observer: z.literal(true).optional(),
        /** `quorate node add` has begun with it and not ended. */
        adding: z.literal(true).optional(),
      }),
    )
    .min(1),
  orchestrators: z.array(
    z.strictObject({
      id: nodeIdSchema,
      zone: labelSchema,
      host: z.string().min(1),
      httpPort: portSchema,
    }),
  ),
  /** The front doors; the first one's port is the cluster's connection string. */
  gateways: z
    .array(
      z.strictObject({
        id: nodeIdSchema,
        zone: labelSchema,
        host: z.string().min(1),
        ports: z.strictObject({ any: portSchema, read: portSchema, http: portSchema }),
      }),
    )
    .default([]),
});

export type ClusterFile = z.infer<typeof clusterFileSchema>;

/** The configuration or the environment is wrong and only a human can change that; exit code 2. */
export class ConfigError extends QuorateError {
  constructor(message: string) {
    super("bad_config" satisfies keyof typeof errorTable, message);
    this.name = "ConfigError";
  }
}

const maxSocketPathBytes = 107;

export function loadSidecarConfig(file: string): SidecarConfig {
  const base = dirname(resolve(file));
  const config = parseConfigFile(file, sidecarConfigSchema);
  const at = (path: string): string => resolve(base, path);
  const absolute: SidecarConfig = {
    ...config,
    ...(config.tokenFile === undefined ? {} : { tokenFile: at(config.tokenFile) }),
    dir: at(config.dir),
    postgres: { ...config.postgres, binDir: at(config.postgres.binDir) },
    replication: { ...config.replication, passwordFile: at(config.replication.passwordFile) },
    app: { ...config.app, passwordFile: at(config.app.passwordFile) },
    ...(config.monitor === undefined
      ? {}
      : { monitor: { ...config.monitor, passwordFile: at(config.monitor.passwordFile) } }),
    ...(config.gateway === undefined
      ? {}
      : { gateway: { ...config.gateway, passwordFile: at(config.gateway.passwordFile) } }),
    ...(config.tls === undefined
      ? {}
      : { tls: { ca: at(config.tls.ca), cert: at(config.tls.cert), key: at(config.tls.key) } }),
    ...(config.backup === undefined ? {} : { backup: absoluteBackupConfig(config.backup, at) }),
  };
  checkSidecarConfig(file, absolute);
  return absolute;
}

export function loadClusterFile(file: string): ClusterFile {
  return parseConfigFile(file, clusterFileSchema);
}

function checkSidecarConfig(file: string, config: SidecarConfig): void {
  const { tls, tokenFile, host } = config;
  if (!config.insecure && tls === undefined && (tokenFile === undefined || !isLoopback(host)))
    throw new ConfigError(
      tokenFile === undefined
        ? `${file}: the sidecar would obey anybody: give it the cluster's token (tokenFile) or certificates (tls, see quorate certs init), or say "insecure": true`
        : `${file}: on ${host} the token would go over the network in the clear: give it certificates (tls, see quorate certs init), or say "insecure": true`,
    );
  const { pooler, poolerRead } = config.ports;
  const { postgres } = config.ports;
  const ports = Object.values(config.ports);
  if (new Set(ports).size !== ports.length) throw new ConfigError(`${file}: all ports must be different`);
  if (pooler !== undefined && config.gateway === undefined)
    throw new ConfigError(
      `${file}: ports.pooler needs the gateways' own account: name its passwordFile in the section gateway`,
    );
  if (poolerRead !== undefined && pooler === undefined)
    throw new ConfigError(`${file}: ports.poolerRead needs ports.pooler`);
  const longest = `${config.dir}/run/.s.PGSQL.${postgres}`;
  const bytes = Buffer.byteLength(longest);
  if (bytes > maxSocketPathBytes)
    throw new ConfigError(
      `${file}: the socket path ${longest} has ${bytes} bytes, at most ${maxSocketPathBytes} are possible: choose a shorter directory`,
    );
  for (const name of Object.keys(config.postgres.settings))
    if (protectedSettings.has(name))
      throw new ConfigError(
        `${file}: postgres.settings.${name} can't be changed: the cluster's safety rests on it; remove it`,
      );
}

export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}

function parseConfigFile<T>(file: string, schema: z.ZodType<T>): T {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new ConfigError(`can't read ${file}: ${(error as Error).message}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new ConfigError(`${file} is not valid JSON: ${(error as Error).message}`);
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const problems = result.error.issues.map(
    (issue) => `  ${issue.path.join(".") || "(top level)"}: ${issue.message}`,
  );
  throw new ConfigError(`${file} is not valid:\n${problems.join("\n")}`);
}
