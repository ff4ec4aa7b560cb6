/** Runs pgBackRest as Postgres's owner and turns its failures into errors with a code. */
import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import {
  codeOf,
  type commonErrors,
  QuorateError,
  type RunOptions,
  type RunResult,
  run,
} from "@quorate/common";
import type { PostgresOwner } from "../environment.ts";
import { type BackupConfig, remoteRepository } from "./backup-config.ts";
import { type BackupFailure, explainFailure } from "./backup-failures.ts";
import { readsWithoutProof } from "./local-sql.ts";
import { type BackupPaths, repositoryPath } from "./pgbackrest-conf.ts";
import {
  type ArchiveListing,
  emptyListing,
  parseInfo,
  parseListing,
  type RepositoryInfo,
} from "./repository-info.ts";

export class BackupError extends QuorateError {
  readonly failure: BackupFailure;
  constructor(failure: BackupFailure, what: string) {
    super(failure.code, `${what}: ${failure.message}; ${failure.todo}`);
    this.name = "BackupError";
    this.failure = failure;
  }
}

export type PgbackrestOptions = {
  readonly config: BackupConfig;
  readonly stanza: string;
  readonly paths: Pick<BackupPaths, "conf" | "root">;
  /** Of this node. */
  readonly host: string;
  readonly owner: PostgresOwner;
  /** Ends every command. */
  readonly signal?: AbortSignal;
};

export type CommandOptions = Pick<RunOptions, "timeoutMs" | "signal" | "onOutput" | "niceness">;

/** Of work that may take its time: queries come first. */
export const backgroundNiceness = 10;

const shortTimeoutMs = 120_000;
/** What it shall not wait for when only something is to be read: else it is the default, a minute. */
const shortIo = "--io-timeout=15";
/** pgBackRest's own for a host that doesn't answer. */
const hostConnectExitCode = 49;
/** pgBackRest's own for a path that isn't there. */
const missingExitCode = 73;
/** Several gigabytes take minutes, some terabytes a day. */
const longTimeoutMs = 48 * 3_600_000;

export class Pgbackrest {
  readonly #options: PgbackrestOptions;

  constructor(options: PgbackrestOptions) {
    this.#options = options;
  }

  /** Throws BackupError. */
  async command(what: string, args: readonly string[], options: CommandOptions = {}): Promise<RunResult> {
    const { config, stanza, paths, owner } = this.#options;
    const signal = options.signal ?? this.#options.signal;
    const all = [`--config=${paths.conf}`, `--stanza=${stanza}`, ...args];
    let result: RunResult;
    try {
      result = await run(config.pgbackrest, all, {
        cwd: paths.root,
        timeoutMs: longTimeoutMs,
        env: pgbackrestEnvironment(),
        okCodes: Array.from({ length: 256 }, (_, code) => code),
        ...options,
        ...(signal === undefined ? {} : { signal }),
        ...(owner === undefined ? {} : { user: owner }),
      });
    } catch (error) {
      if (signal?.aborted === true || codeOf(error) !== commandFailed) throw error;
      throw new BackupError(neverEnded(error as Error), what);
    }
    if (result.code === 0) return result;
    throw new BackupError(
      explainFailure(result.code, `${result.stderr}\n${result.stdout}`, await this.freeBytes()),
      what,
    );
  }

  #localDirectory(): string | null {
    const { config, host } = this.#options;
    const local = config.repository.type === "posix" && remoteRepository(config, host) === null;
    return local ? repositoryPath(config) : null;
  }

  /** Of the disk of a repository that is within reach; null: unknown. */
  async freeBytes(): Promise<number | null> {
    const directory = this.#localDirectory();
    if (directory === null) return null;
    try {
      const { bavail, bsize } = await statfs(directory);
      return bavail * bsize;
    } catch {
      return null;
    }
  }

  /** Throws BackupError, also when the repository's directory isn't there: pgBackRest would call it empty. */
  async info(): Promise<RepositoryInfo> {
    const what = "reading the repository";
    this.#mustBeThere(what);
    const { stdout } = await this.command(what, ["info", "--output=json", shortIo], {
      timeoutMs: shortTimeoutMs,
    });
    const info = parseInfo(stdout, this.#options.stanza);
    if (info.kind === "unusable") throw new BackupError(explainFailure(99, info.message), what);
    // It may have gone meanwhile: then it isn't empty either.
    if (info.kind === "absent") this.#mustBeThere(what);
    return info;
  }

  #mustBeThere(what: string): void {
    const directory = this.#localDirectory();
    if (directory === null || existsSync(directory)) return;
    throw new BackupError(
      explainFailure(missingExitCode, `unable to open path '${directory}': it is missing`),
      what,
    );
  }

  async listArchive(archiveId: string): Promise<ArchiveListing> {
    const path = `archive/${this.#options.stanza}/${archiveId}`;
    const { stdout } = await this.command(
      "listing the archive",
      ["repo-ls", "--recurse", "--output=json", shortIo, path],
      { timeoutMs: shortTimeoutMs },
    );
    return stdout.trim() === "" ? emptyListing : parseListing(stdout);
  }

  async readHistory(archiveId: string, file: string): Promise<string> {
    const path = `archive/${this.#options.stanza}/${archiveId}/${file}`;
    return (
      await this.command("reading a timeline's history", ["repo-get", shortIo, path], {
        timeoutMs: shortTimeoutMs,
      })
    ).stdout;
  }
}

function neverEnded({ message }: Error): BackupFailure {
  const late = /not done after (\d+) ms/.exec(message);
  if (late !== null)
    return explainFailure(hostConnectExitCode, `no answer within ${Number(late[1]) / 1000} s`);
  const todo = "see that backup.pgbackrest in sidecar.json names an executable pgBackRest";
  return { code: "backup_failed", message, todo };
}

const commandFailed: keyof typeof commonErrors.table = "command_failed";

/** pgBackRest takes options from PGBACKREST_*, libpq from PG*: only the configuration file counts. */
export function pgbackrestEnvironment(): Record<string, string | undefined> {
  const names = Object.keys(process.env).filter((name) => /^(PG|PGBACKREST_)/.test(name));
  return { ...Object.fromEntries(names.map((name) => [name, undefined])), PGOPTIONS: readsWithoutProof };
}
