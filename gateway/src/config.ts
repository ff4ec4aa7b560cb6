/** The gateway's configuration: one JSON file; every value has a default and a bound. */
import { z } from "zod";

const port = z.int().min(0).max(65_535);
const ms = z.int().min(0).max(86_400_000);

export const configSchema = z.strictObject({
  listen: z
    .strictObject({
      host: z.string().default("127.0.0.1"),
      port: port.default(6432),
      readPort: port.optional(),
    })
    .prefault({}),
  /** One fixed server … */
  server: z.strictObject({ host: z.string(), port }).optional(),
  /** … or the sidecars of a cluster, which tell who leads. */
  sidecars: z
    .array(z.strictObject({ host: z.string(), grpcPort: port }))
    .max(1000)
    .default([]),
  workers: z.int().min(1).max(64).default(1),
  /** native is faster, but does not pass the wire fuzzer yet; auto: native where it can be built. */
  transport: z.enum(["auto", "net", "native"]).default("net"),
  authentication: z
    .strictObject({
      /** scram: clients are checked against the server's own verifiers; trust: not at all. */
      method: z.enum(["scram", "trust"]).default("scram"),
      /** The gateway's own account, which may read pg_authid. */
      user: z.string().default("postgres"),
      database: z.string().default("postgres"),
      passwordFile: z.string().optional(),
      keepMs: ms.default(10_000),
    })
    .prefault({}),
  tls: z
    .strictObject({ certFile: z.string(), keyFile: z.string(), required: z.boolean().default(false) })
    .optional(),
  pool: z
    .strictObject({
      /** Server connections per database and user, in each worker. */
      size: z.int().min(1).max(10_000).default(20),
      /** Server connections of one worker in all. */
      total: z.int().min(1).max(100_000).default(90),
      serverIdleMs: ms.default(600_000),
      serverLifetimeMs: ms.default(3_600_000),
      /** How long a request may wait for a server connection, or for a leader. */
      waitMs: ms.default(30_000),
      connectTimeoutMs: ms.default(5_000),
    })
    .prefault({}),
  limits: z
    .strictObject({
      clients: z.int().min(1).max(1_000_000).default(20_000),
      waiting: z.int().min(0).max(1_000_000).default(20_000),
      loginTimeoutMs: ms.default(60_000),
      /** 0: none. */
      clientIdleMs: ms.default(0),
      idleInTransactionMs: ms.default(0),
      /** How long a request may go on after its client has left. */
      abandonedMs: ms.default(30_000),
    })
    .prefault({}),
  admin: z
    .strictObject({
      /** The name of the console's database. */
      database: z.string().default("quorate"),
      /** Who may use it; without authentication only `postgres`. */
      users: z.array(z.string()).default(["postgres"]),
    })
    .prefault({}),
  metrics: z.strictObject({ host: z.string().default("127.0.0.1"), port }).optional(),
  log: z
    .strictObject({
      level: z.enum(["debug", "info", "warn", "error", "silent"]).default("info"),
      file: z.string().optional(),
    })
    .prefault({}),
  drainMs: ms.default(30_000),
});

export type Config = z.infer<typeof configSchema>;

export function parseConfig(value: unknown): Config {
  const config = configSchema.parse(value);
  if (config.server === undefined && config.sidecars.length === 0) {
    throw new Error("the configuration names neither a server nor sidecars");
  }
  return config;
}
