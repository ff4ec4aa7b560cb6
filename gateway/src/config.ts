/** The gateway's configuration: one JSON file; every value has a default and a bound. */
import path from "node:path";
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
  /** What it shows to sidecars, PEM files; they must show a certificate of the same authority. */
  sidecarTls: z.strictObject({ ca: z.string(), cert: z.string(), key: z.string() }).optional(),
  /** The cluster's token: what it shows to sidecars where there are no certificates. */
  sidecarTokenFile: z.string().optional(),
  /** Where this gateway is: followers of the same zone are read first. */
  zone: z.string().optional(),
  workers: z.int().min(1).max(64).default(1),
  /**
   * native: batched I/O by the addon, with io_uring where the kernel offers it; epoll: the same without io_uring; net:
   * Node's own sockets; auto: native where it can be built.
   */
  transport: z.enum(["auto", "net", "native", "epoll"]).default("auto"),
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
      /** Server connections in all; 90 where they are not leased. */
      total: z.int().min(1).max(100_000).optional(),
      serverIdleMs: ms.default(600_000),
      serverLifetimeMs: ms.default(3_600_000),
      /** How long a request may wait for a server connection, or for a leader. */
      waitMs: ms.default(30_000),
      connectTimeoutMs: ms.default(5_000),
    })
    .prefault({}),
  /** Each sidecar leases shares of its Postgres's connections to gateways. */
  budget: z
    .strictObject({
      lease: z.boolean().default(true),
      /** Connections to a node whose sidecar can't be asked. */
      unleased: z.int().min(1).max(10_000).default(5),
    })
    .prefault({}),
  /** The node that this gateway belongs to: reads that may be answered there are. */
  home: z.string().optional(),
  /** Reads on followers, for sessions that ask for them (quorate.read) and on listen.readPort. */
  reads: z
    .strictObject({
      /** How long a read waits for a follower: for a connection, and for what the session has seen. */
      waitMs: ms.default(300),
      /** Followers that lag by more are not read. */
      mostLagBytes: z
        .int()
        .min(0)
        .max(2 ** 50)
        .default(64 * 1024 * 1024),
    })
    .prefault({}),
  limits: z
    .strictObject({
      clients: z.int().min(1).max(1_000_000).default(20_000),
      waiting: z.int().min(0).max(1_000_000).default(20_000),
      loginTimeoutMs: ms.default(60_000),
      /** 0: none. A session that is idle; a transaction that is; one request; one transaction. */
      clientIdleMs: ms.default(0),
      idleInTransactionMs: ms.default(0),
      requestMs: ms.default(0),
      transactionMs: ms.default(0),
      /** How long a request may go on after its client has left. */
      abandonedMs: ms.default(30_000),
    })
    .prefault({}),
  /** Other limits for a user, a database, or a user in a database; of all that fit the last one wins. */
  overrides: z
    .array(
      z.strictObject({
        database: z.string().optional(),
        user: z.string().optional(),
        /** As in pool … */
        size: z.int().min(1).max(10_000).optional(),
        waitMs: ms.optional(),
        /** … and as in limits, for the clients of this user and database. */
        clients: z.int().min(0).max(1_000_000).optional(),
        clientIdleMs: ms.optional(),
        idleInTransactionMs: ms.optional(),
        requestMs: ms.optional(),
        transactionMs: ms.optional(),
      }),
    )
    .max(1_000)
    .default([]),
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
  /** Who it is to be if root starts it; its files must be readable for that user. */
  runAs: z.string().min(1).optional(),
  drainMs: ms.default(30_000),
});

type Checked = z.infer<typeof configSchema>;
export type Config = Omit<Checked, "pool"> & {
  readonly pool: Checked["pool"] & { readonly total: number };
};

/** Within PostgreSQL's default of max_connections. */
const totalWithoutLeases = 90;
const totalWithLeases = 10_000;

export class ConfigError extends Error {}

/** `base`: the directory that relative paths in it start from. */
export function parseConfig(value: unknown, base = "."): Config {
  const result = configSchema.safeParse(value);
  if (!result.success) {
    const problems = result.error.issues.map(
      (issue) => `${issue.path.join(".") || "(top)"}: ${issue.message}`,
    );
    throw new ConfigError(`the configuration is not valid: ${problems.join("; ")}`);
  }
  const config = result.data;
  if (config.server === undefined && config.sidecars.length === 0) {
    throw new ConfigError("the configuration names neither a server nor sidecars");
  }
  const at = (name: string): string => path.resolve(base, name);
  const { sidecarTls, sidecarTokenFile, tls, authentication } = config;
  const leases = config.budget.lease && config.sidecars.length > 0;
  const total = config.pool.total ?? (leases ? totalWithLeases : totalWithoutLeases);
  return {
    ...config,
    pool: { ...config.pool, total },
    ...(sidecarTls && {
      sidecarTls: { ca: at(sidecarTls.ca), cert: at(sidecarTls.cert), key: at(sidecarTls.key) },
    }),
    ...(sidecarTokenFile !== undefined && { sidecarTokenFile: at(sidecarTokenFile) }),
    ...(tls && { tls: { ...tls, certFile: at(tls.certFile), keyFile: at(tls.keyFile) } }),
    ...(authentication.passwordFile !== undefined && {
      authentication: { ...authentication, passwordFile: at(authentication.passwordFile) },
    }),
  };
}
