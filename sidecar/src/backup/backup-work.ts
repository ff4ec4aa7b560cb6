/** The pieces of work: a backup, a restore test, a verification. Each ends with an outcome, never with an exception. */
import { mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { messageOf, run } from "@quorate/common";
import type { SidecarConfig } from "../config.ts";
import type { PostgresOwner } from "../environment.ts";
import type { NodePaths } from "../paths.ts";
import type { ReplayClient } from "./archive-replay.ts";
import type { BackupConfig } from "./backup-config.ts";
import type { BackupFailure } from "./backup-failures.ts";
import type { Due } from "./backup-schedule.ts";
import { BackupError, backgroundNiceness, type Pgbackrest } from "./pgbackrest.ts";
import { type BackupPaths, otherNodeOptions, type RemotePostgres } from "./pgbackrest-conf.ts";
import { lookForRestore, parsePercent, restoreData } from "./restore-data.ts";

export type BackupWork = {
  readonly pgbackrest: Pgbackrest;
  readonly config: SidecarConfig & { readonly backup: BackupConfig };
  readonly stanza: string;
  readonly paths: BackupPaths;
  readonly nodePaths: NodePaths;
  readonly owner: PostgresOwner;
  readonly signal: AbortSignal;
  readonly onPercent: (percent: number) => void;
};

export type Outcome = {
  readonly run: {
    readonly at: string;
    readonly began: string;
    readonly ok: boolean;
    readonly what: string;
    readonly message: string;
  };
  readonly problem: BackupFailure | null;
  /** Nothing is wrong, it is only too early: another backup runs, or the leader is new. */
  readonly retry: boolean;
};

function failureOf(error: unknown): BackupFailure {
  if (error instanceof BackupError) return error.failure;
  return { code: "backup_failed", message: messageOf(error), todo: "read the sidecar's log" };
}

async function attempt(what: string, work: () => Promise<string>): Promise<Outcome> {
  const startedMs = performance.now();
  const began = new Date().toISOString();
  try {
    const message = await work();
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
    return {
      run: { at: new Date().toISOString(), began, ok: true, what, message: `${message} (${seconds} s)` },
      problem: null,
      retry: false,
    };
  } catch (error) {
    const problem = failureOf(error);
    const tooEarly = /does not match pg_control timeline|unable to find primary/.test(problem.message);
    return {
      run: { at: new Date().toISOString(), began, ok: false, what, message: problem.message },
      problem,
      retry: problem.code === "backup_running" || tooEarly,
    };
  }
}

/** `other`: the leader, or a follower if this is the leader; "self": only this one, which leads. */
export function runBackup(work: BackupWork, due: Due, other: RemotePostgres | "self"): Promise<Outcome> {
  return attempt(`${due.type} backup`, async () => {
    const place = other === "self" ? [] : otherNodeOptions(work.paths, other);
    await work.pgbackrest.command(
      "making a backup",
      [...place, `--type=${due.type}`, "--log-level-console=detail", "backup"],
      {
        signal: work.signal,
        niceness: backgroundNiceness,
        onOutput: (chunk) => {
          const percent = parsePercent(chunk);
          if (percent !== null) work.onPercent(percent);
        },
      },
    );
    return `${due.type} backup made: ${due.reason}`;
  });
}

export function runVerify(work: BackupWork): Promise<Outcome> {
  return attempt("verify", async () => {
    const { stdout } = await work.pgbackrest.command(
      "verifying the repository",
      ["--output=text", "--verbose", "verify"],
      { signal: work.signal, niceness: backgroundNiceness },
    );
    return judgeVerify(stdout);
  });
}

/** pgBackRest's report as one line; throws when something is wrong with the repository. */
export function judgeVerify(report: string): string {
  const count = (pattern: RegExp): number =>
    [...report.matchAll(pattern)].reduce((sum, match) => sum + Number(match[1]), 0);
  const bad = [
    ...report.matchAll(
      /^.*\b(?:status: (?!valid|ok)\S+|missing: [1-9]|checksum invalid: [1-9]|size invalid: [1-9]|other: [1-9]).*$/gm,
    ),
  ];
  const sizes = `${count(/total WAL checked: (\d+)/g)} WAL segments, ${count(/total files checked: (\d+)/g)} files`;
  const failed = /^status: error/m.test(report) || bad.length > 0;
  if (!failed) return `${sizes}: all sums are right`;
  throw new BackupError(
    {
      code: "verify_failed",
      message: `${bad.map(([line]) => line.trim()).join("; ") || report.trim()}`,
      todo: "make a new full backup and see to the disk of the repository",
    },
    "verifying the repository",
  );
}

/** amcheck of every table and B-tree, heap contents against the indexes. */
export async function checkContents(
  binDir: string,
  client: ReplayClient,
  owner: PostgresOwner,
  signal: AbortSignal,
): Promise<void> {
  await run(
    join(binDir, "pg_amcheck"),
    [
      `--host=${client.socketDirectory}`,
      `--port=${client.port}`,
      "--username=postgres",
      "--all",
      "--install-missing",
      "--heapallindexed",
      "--no-password",
    ],
    { signal, niceness: backgroundNiceness, cwd: "/", ...(owner === undefined ? {} : { user: owner }) },
  );
}

export function runRestoreTest(work: BackupWork): Promise<Outcome> {
  const { paths, config, owner, signal, nodePaths } = work;
  return attempt("restore test", async () => {
    const source = await lookForRestore(work.pgbackrest, { kind: "latest" });
    const data = join(paths.scratch, "data");
    try {
      await rm(paths.scratch, { recursive: true, force: true });
      await mkdir(dirname(data), { recursive: true, mode: 0o711 });
      await restoreData({
        pgbackrest: work.pgbackrest,
        config: config.backup,
        stanza: work.stanza,
        conf: paths.conf,
        binDir: config.postgres.binDir,
        osUser: config.postgres.osUser,
        owner,
        source,
        data,
        tablespaces: join(paths.scratch, "tablespaces"),
        logFile: join(nodePaths.log, "restore-test.log"),
        signal,
        niceness: backgroundNiceness,
        onProgress: (progress) => {
          if (progress.kind === "files")
            work.onPercent(progress.totalBytes === 0 ? 0 : (100 * progress.doneBytes) / progress.totalBytes);
        },
        work: (client) => checkContents(config.postgres.binDir, client, owner, signal),
      });
    } finally {
      await rm(paths.scratch, { recursive: true, force: true });
    }
    return `${source.plan.backup.label} restored to the end of the archive, amcheck finds nothing`;
  });
}
