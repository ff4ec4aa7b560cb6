/** What `pgbackrest info` and `repo-ls` say, in our words. Pure. */
import { z } from "zod";
import type { BackupType } from "./backup-config.ts";

export type Backup = {
  readonly label: string;
  readonly type: BackupType;
  readonly startedAtMs: number;
  readonly stoppedAtMs: number;
  /** First and last WAL segment that it needs. */
  readonly walStart: string;
  readonly walStop: string;
  readonly lsnStart: string;
  readonly lsnStop: string;
  readonly databaseBytes: number;
  /** What this backup itself takes in the repository. */
  readonly repositoryBytes: number;
  /** pgBackRest found damaged pages. */
  readonly damaged: boolean;
  readonly systemIdentifier: string | null;
};

export type RepositoryInfo =
  | { readonly kind: "absent" }
  | { readonly kind: "unusable"; readonly message: string }
  | {
      readonly kind: "ok";
      /** Oldest first. */
      readonly backups: readonly Backup[];
      /** A backup runs on this machine. */
      readonly locked: boolean;
      /** The part of the archive that belongs to the present data: "18-1". */
      readonly archiveId: string | null;
    };

const statusSchema = z.object({ code: z.number(), message: z.string() });
const infoSchema = z.array(
  z.object({
    name: z.string(),
    status: statusSchema.extend({
      lock: z.object({ backup: z.object({ held: z.boolean() }) }).optional(),
    }),
    repo: z.array(z.object({ status: statusSchema })).default([]),
    archive: z.array(z.object({ id: z.string(), database: z.object({ id: z.number() }) })).default([]),
    db: z.array(z.object({ id: z.number(), "system-id": z.union([z.number(), z.string()]) })).default([]),
    backup: z
      .array(
        z.object({
          label: z.string(),
          type: z.enum(["full", "diff", "incr"]),
          error: z.boolean().nullish(),
          archive: z.object({ start: z.string().nullable(), stop: z.string().nullable() }),
          lsn: z.object({ start: z.string(), stop: z.string() }).optional(),
          timestamp: z.object({ start: z.number(), stop: z.number() }),
          database: z.object({ id: z.number() }),
          info: z.object({
            size: z.number(),
            repository: z.object({ delta: z.number().optional(), size: z.number().optional() }),
          }),
        }),
      )
      .default([]),
  }),
);

/** Codes of pgBackRest's info: 1 and 2 mean that there is nothing yet. */
const missingStanza = 1;
const unusableCodes: ReadonlySet<number> = new Set([4, 99]);

/**
 * System identifiers don't fit into a JavaScript number: keep them as text. What pgBackRest quotes of a file that it
 * can't decrypt is in its messages as it is, control characters included.
 */
function parseInfoJson(text: string): unknown {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is to be removed
  return JSON.parse(text.replace(/[\x00-\x1f]/g, " ").replace(/("system-id":)(\d+)/g, '$1"$2"'));
}

export function parseInfo(text: string, stanza: string): RepositoryInfo {
  const stanzas = infoSchema.parse(parseInfoJson(text));
  const found = stanzas.find(({ name }) => name === stanza);
  if (found === undefined || found.status.code === missingStanza) return { kind: "absent" };
  const bad = [found.status, ...found.repo.map(({ status }) => status)].find(({ code }) =>
    unusableCodes.has(code),
  );
  if (bad !== undefined) {
    const detail = found.repo.find(({ status }) => status.code === 99)?.status.message ?? bad.message;
    return { kind: "unusable", message: detail };
  }
  const current = found.db.at(-1);
  const systemOf = (id: number): string | null => {
    const db = found.db.find((each) => each.id === id);
    return db === undefined ? null : String(db["system-id"]);
  };
  return {
    kind: "ok",
    locked: found.status.lock?.backup.held === true,
    archiveId: found.archive.find(({ database }) => database.id === current?.id)?.id ?? null,
    backups: found.backup.map((each) => ({
      label: each.label,
      type: each.type,
      startedAtMs: each.timestamp.start * 1000,
      stoppedAtMs: each.timestamp.stop * 1000,
      walStart: each.archive.start ?? "",
      walStop: each.archive.stop ?? "",
      lsnStart: each.lsn?.start ?? "0/0",
      lsnStop: each.lsn?.stop ?? "0/0",
      databaseBytes: each.info.size,
      repositoryBytes: each.info.repository.delta ?? each.info.repository.size ?? 0,
      damaged: each.error === true,
      systemIdentifier: systemOf(each.database.id),
    })),
  };
}

export type ArchivedSegment = {
  /** 24 hex digits. */
  readonly name: string;
  readonly archivedAtMs: number;
};

export type ArchiveListing = {
  readonly segments: readonly ArchivedSegment[];
  /** 0000000A.history, … */
  readonly histories: readonly string[];
};

export const emptyListing: ArchiveListing = { segments: [], histories: [] };

const listingSchema = z.record(
  z.string(),
  z.object({ type: z.string(), time: z.number().optional(), size: z.number().optional() }),
);

/** Of `repo-ls --recurse archive/<stanza>/<archiveId>`. */
export function parseListing(text: string): ArchiveListing {
  const entries = Object.entries(listingSchema.parse(JSON.parse(text)));
  const segments: ArchivedSegment[] = [];
  const histories: string[] = [];
  for (const [path, { type, time }] of entries) {
    if (type !== "file") continue;
    const name = path.slice(path.lastIndexOf("/") + 1);
    const segment = /^([0-9A-F]{24})-[0-9a-f]{40}(\.[a-z0-9]+)?$/.exec(name)?.[1];
    if (segment !== undefined) segments.push({ name: segment, archivedAtMs: (time ?? 0) * 1000 });
    else if (/^[0-9A-F]{8}\.history$/.test(name)) histories.push(name);
  }
  segments.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  return { segments, histories: histories.sort() };
}
