/** The `backup` section of sidecar.json (docs/backup.md): where backups go, when they are made, how long they are kept. */
import { Cron } from "croner";
import { z } from "zod";

const pathSchema = z.string().min(1);
const nameSchema = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, "must be a short name");
const portSchema = z.number().int().min(1).max(65535);

export const cronSchema = z.string().refine((text) => {
  try {
    // Five fields: seconds would only invite backups that never end.
    new Cron(text, { paused: true, timezone: "UTC" }).stop();
    return text.trim().split(/\s+/).length === 5;
  } catch {
    return false;
  }
}, "must be a cron expression of five fields, like 0 1 * * 0 (UTC)");

/** Certificates for pgBackRest's own TLS between nodes. */
const tlsSchema = z.strictObject({
  certFile: pathSchema,
  keyFile: pathSchema,
  caFile: pathSchema,
});

const posixSchema = z.strictObject({
  type: z.literal("posix"),
  /** A directory that every node reaches: on one machine, or a shared file system. */
  path: pathSchema,
  /** Only the node with this `host` has the directory; the others reach it through pgBackRest's TLS (`tls`). */
  host: z.string().min(1).optional(),
  /** Of that node's pgBackRest server, if it isn't `tls.port`. */
  port: portSchema.optional(),
});

const s3Schema = z.strictObject({
  type: z.literal("s3"),
  path: z.string().startsWith("/").default("/quorate"),
  bucket: z.string().min(1),
  endpoint: z.string().min(1),
  region: z.string().min(1).default("us-east-1"),
  uriStyle: z.enum(["host", "path"]).default("host"),
  /** Files with one line each; without them the machine's role is used. */
  keyFile: pathSchema.optional(),
  keySecretFile: pathSchema.optional(),
  /** Port, if it isn't 443. */
  port: portSchema.optional(),
  /** Certificates of a private authority. */
  caFile: pathSchema.optional(),
  verifyTls: z.boolean().default(true),
});

const sectionSchema = z.strictObject({
  /** pgBackRest 2.57 or newer. */
  pgbackrest: pathSchema,
  /** Name of this cluster's part of the repository; by default the cluster's name. */
  stanza: nameSchema.optional(),
  repository: z.discriminatedUnion("type", [posixSchema, s3Schema]),
  /** The key that encrypts the repository, one line; null: not encrypted. */
  cipherKeyFile: pathSchema.nullable(),
  /** When backups are made, in UTC; null: never. */
  schedule: z
    .strictObject({
      full: cronSchema.default("0 1 * * 0"),
      diff: cronSchema.nullable().default("0 1 * * 1-6"),
      incr: cronSchema.nullable().default(null),
    })
    .prefault({}),
  retention: z
    .strictObject({
      /** Full backups that are kept, with all that depends on them and the WAL since the oldest. */
      full: z.number().int().min(1).max(9_999_999).default(2),
      /** Keep full backups for so many days instead (at least one older than that remains). */
      days: z.number().int().min(1).max(9_999_999).optional(),
      diff: z.number().int().min(1).max(9_999_999).optional(),
    })
    .prefault({}),
  archive: z
    .strictObject({
      /** A segment that isn't full is archived after so long: the most that a lost cluster loses of the archive. */
      timeoutSeconds: z.number().int().min(1).max(86_400).default(60),
      /** Warn from here on. */
      alarmBytes: z
        .number()
        .int()
        .min(1)
        .default(512 * 1024 ** 2),
      /** From here on WAL is dropped instead of filling the leader's disk. */
      limitBytes: z
        .number()
        .int()
        .min(64 * 1024 ** 2)
        .default(4 * 1024 ** 3),
      /** Push several segments at once, in the background; for repositories with a long round trip. */
      async: z.boolean().optional(),
    })
    .prefault({}),
  /** Restore into a temporary directory and look for damage. */
  restoreTest: cronSchema.nullable().default("0 3 * * 6"),
  /** Check the sums of everything in the repository. */
  verify: cronSchema.nullable().default("0 4 * * *"),
  /** If the node whose turn it is hasn't begun, the next one takes over after so long. */
  takeoverSeconds: z.number().int().min(1).max(86_400).default(300),
  processes: z.number().int().min(1).max(64).default(1),
  /** Where pgBackRest's server listens on this node, so that other nodes can reach its data. */
  tls: tlsSchema
    .extend({
      port: portSchema,
      /** Common names of the certificates that may connect. */
      clients: z.array(z.string().min(1)).min(1),
    })
    .optional(),
});

export const backupConfigSchema = sectionSchema.refine(
  ({ repository, tls }) => repository.type !== "posix" || repository.host === undefined || tls !== undefined,
  {
    path: ["tls"],
    message: 'a repository on another node is reached over TLS: see "quorate certs init" (docs/backup.md)',
  },
);

export type BackupConfig = z.infer<typeof backupConfigSchema>;
export type BackupConfigInput = z.input<typeof backupConfigSchema>;
export type BackupType = "full" | "diff" | "incr";

/** Whether the repository is out of this node's own reach: pgBackRest makes backups only where it is. */
export function remoteRepository(
  { repository, tls }: BackupConfig,
  ownHost: string,
): { readonly host: string; readonly port: number } | null {
  if (repository.type !== "posix" || repository.host === undefined || repository.host === ownHost)
    return null;
  return { host: repository.host, port: repository.port ?? tls?.port ?? defaultTlsPort };
}

/** pgBackRest's own. */
export const defaultTlsPort = 8432;

/** All paths absolute. */
export function absoluteBackupConfig(config: BackupConfig, at: (path: string) => string): BackupConfig {
  const { repository, cipherKeyFile, tls } = config;
  return {
    ...config,
    pgbackrest: at(config.pgbackrest),
    repository:
      repository.type === "s3"
        ? {
            ...repository,
            ...(repository.keyFile === undefined ? {} : { keyFile: at(repository.keyFile) }),
            ...(repository.keySecretFile === undefined
              ? {}
              : { keySecretFile: at(repository.keySecretFile) }),
            ...(repository.caFile === undefined ? {} : { caFile: at(repository.caFile) }),
          }
        : { ...repository, path: at(repository.path) },
    cipherKeyFile: cipherKeyFile === null ? null : at(cipherKeyFile),
    ...(tls === undefined
      ? {}
      : { tls: { ...tls, certFile: at(tls.certFile), keyFile: at(tls.keyFile), caFile: at(tls.caFile) } }),
  };
}
