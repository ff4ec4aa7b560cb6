/** The data directory: made by initdb (first node) or by base backup (every other), configured before each start. */
import { existsSync } from "node:fs";
import { chmod, chown, mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  codeOf,
  makeDirectoryDurable,
  type RunOptions,
  readCheckedJson,
  run,
  syncDirectory,
  writeCheckedJson,
  writeDurable,
} from "@quorate/common";
import { z } from "zod";
import { type OutdatedData, parseControlData } from "./backup/archive-catch-up.ts";
import { lsnOf } from "./backup/wal-archive.ts";
import type { SidecarConfig } from "./config.ts";
import { formatConninfo, type Peer, tlsFields } from "./conninfo.ts";
import { type PostgresOwner, readSecret } from "./environment.ts";
import type { NodePaths } from "./paths.ts";
import { cleanEnvironment } from "./postgres-process.ts";
import { scramVerifier } from "./scram.ts";
import { controlUser, pgHba, quorateConf, withInclude } from "./settings.ts";

export type CloneProgress = { readonly doneBytes: number; readonly totalBytes: number };

/**
 * For whatever the sidecar and backups do with SQL on the node's own socket: no password, so nobody can be it over
 * TCP, and no right to read what is in tables. Functions of the catalog belong to the database "postgres" here.
 */
const rightsOfControl = [
  `CREATE ROLE ${controlUser} LOGIN`,
  `GRANT pg_monitor, pg_checkpoint TO ${controlUser}`,
  ...[
    "pg_backup_start(text, boolean)",
    "pg_backup_stop(boolean)",
    "pg_switch_wal()",
    "pg_create_restore_point(text)",
  ].map((name) => `GRANT EXECUTE ON FUNCTION pg_catalog.${name} TO ${controlUser}`),
];

const outdatedSchema = z.object({ endLsn: z.string() });

const initTimeoutMs = 110_000;
const cloneTimeoutMs = 24 * 3_600_000;

export class DataDirectory {
  readonly #config: SidecarConfig;
  /** The settings of Postgres may have been changed since this process started. */
  readonly #fresh: () => SidecarConfig;
  readonly #paths: NodePaths;
  readonly #owner: PostgresOwner;

  constructor(
    config: SidecarConfig,
    paths: NodePaths,
    owner: PostgresOwner,
    fresh: () => SidecarConfig = () => config,
  ) {
    this.#config = config;
    this.#fresh = fresh;
    this.#paths = paths;
    this.#owner = owner;
  }

  /** data/ appears by rename only when it is complete. */
  exists(): boolean {
    return existsSync(join(this.#paths.data, "PG_VERSION"));
  }

  /** Files that decide how Postgres starts: always as a follower without a grant. */
  async configure(directory = this.#paths.data): Promise<void> {
    const main = join(directory, "postgresql.conf");
    await this.#put(main, withInclude(await readFile(main, "utf8")));
    await this.#put(join(directory, "quorate.conf"), quorateConf(this.#fresh(), this.#paths));
    await this.#put(join(directory, "pg_hba.conf"), pgHba(this.#config));
    // A node never continues its own timeline: it comes up as a fenced follower, whatever it was before.
    await this.#put(join(directory, "standby.signal"), "");
  }

  /** What is there already need not be made durable again: a restart should be quick. */
  async #put(file: string, content: string): Promise<void> {
    const before = await readFile(file, "utf8").catch((error: unknown) => {
      if (codeOf(error) === "ENOENT") return null;
      throw error;
    });
    if (before === content) return;
    await writeDurable(file, content, this.#owner === undefined ? {} : { owner: this.#owner });
  }

  /** initdb, roles and database in single-user mode: no socket, no other process, nothing half-open. */
  async initialize(signal: AbortSignal): Promise<void> {
    const { dataNew } = this.#paths;
    await this.#makeNew();
    await this.#run(
      "initdb",
      [
        `--pgdata=${dataNew}`,
        "--username=postgres",
        "--auth=scram-sha-256",
        "--auth-local=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        "--no-sync",
      ],
      { timeoutMs: initTimeoutMs, signal },
    );
    await this.#singleUser("postgres", this.#rolesAndDatabase(), signal);
    await this.#singleUser("postgres", this.#gatewayRights(), signal);
    for (const database of new Set(["postgres", this.#config.app.database]))
      await this.#singleUser(database, "CREATE EXTENSION IF NOT EXISTS quorate;\n", signal);
    await this.#finish();
  }

  #rolesAndDatabase(): string {
    const { app, replication, monitor } = this.#config;
    const verifier = (file: string, what: string): string => scramVerifier(readSecret(file, what));
    const statements = [
      `CREATE ROLE ${replication.user} LOGIN REPLICATION PASSWORD '${verifier(replication.passwordFile, "replication.passwordFile")}'`,
      `CREATE ROLE ${app.user} LOGIN PASSWORD '${verifier(app.passwordFile, "app.passwordFile")}'`,
      ...rightsOfControl,
      ...(monitor === undefined
        ? []
        : [
            `CREATE ROLE ${monitor.user} LOGIN CONNECTION LIMIT 10 PASSWORD '${verifier(monitor.passwordFile, "monitor.passwordFile")}'`,
            `GRANT pg_monitor TO ${monitor.user}`,
          ]),
      ...(app.database === "postgres" ? [] : [`CREATE DATABASE ${app.database} OWNER ${app.user}`]),
    ];
    return statements.map((statement) => `${statement};\n`).join("");
  }

  /** What a gateway must know of those who log in, in the database that it asks. */
  #gatewayRights(): string {
    const { gateway } = this.#config;
    if (gateway === undefined) return "";
    const verifier = scramVerifier(readSecret(gateway.passwordFile, "gateway.passwordFile"));
    return (
      `CREATE ROLE ${gateway.user} LOGIN PASSWORD '${verifier}';\n` +
      "GRANT SELECT (rolname, rolpassword, rolcanlogin, rolvaliduntil) " +
      `ON pg_catalog.pg_authid TO ${gateway.user};\n`
    );
  }

  async #singleUser(database: string, sql: string, signal: AbortSignal): Promise<void> {
    const settings = ["exit_on_error=on", "shared_preload_libraries=", "log_min_messages=warning"];
    await this.#run(
      "postgres",
      ["--single", "-D", this.#paths.dataNew, ...settings.flatMap((each) => ["-c", each]), database],
      { input: sql, timeoutMs: initTimeoutMs, signal },
    );
  }

  /** A copy of the leader's (or any other node's) data; only what is committed, as an observer gets it. */
  async clone(from: Peer, onProgress: (progress: CloneProgress) => void, signal: AbortSignal): Promise<void> {
    await this.#makeNew();
    const conninfo = formatConninfo({
      host: from.host,
      port: String(from.port),
      user: this.#config.replication.user,
      passfile: this.#paths.passFile,
      application_name: `${this.#config.node.id}_clone`,
      connect_timeout: "5",
      ...tlsFields(this.#config.tls === undefined ? undefined : this.#paths.tls),
    });
    await this.#run(
      "pg_basebackup",
      [
        `--pgdata=${this.#paths.dataNew}`,
        `--dbname=${conninfo}`,
        "--wal-method=stream",
        "--checkpoint=fast",
        "--progress",
        "--no-sync",
        "--no-password",
      ],
      {
        timeoutMs: cloneTimeoutMs,
        signal,
        onOutput: (chunk) => {
          const progress = parseCloneProgress(chunk);
          if (progress !== null) onProgress(progress);
        },
      },
    );
    await this.#finish();
  }

  /** Data that somebody else brings: complete, stopped. False: he has none, and nothing has changed. */
  async fill(produce: (directory: string) => Promise<boolean>): Promise<boolean> {
    await this.#makeNew();
    if (!(await produce(this.#paths.dataNew))) return false;
    await this.#finish();
    return true;
  }

  /** Data that was put aside as outdated, as its own new data. False: there is none, or it can't be updated. */
  async renew(update: (outdated: OutdatedData) => Promise<boolean>): Promise<boolean> {
    const { dataNew, dataOutdated, root } = this.#paths;
    if (!existsSync(dataOutdated)) return false;
    await rm(dataNew, { recursive: true, force: true });
    await rename(dataOutdated, dataNew);
    await syncDirectory(root);
    const found = await this.#readOutdated();
    if (found !== undefined && (await update(found))) {
      await this.#finish();
      return true;
    }
    await this.#putAside(dataNew);
    return false;
  }

  /** Undefined: it can't be told what it lacks. */
  async #readOutdated(): Promise<OutdatedData | undefined> {
    const { dataNew: directory, outdated } = this.#paths;
    try {
      const read = await readCheckedJson(outdated);
      if (read.kind !== "ok") return undefined;
      const { endLsn } = outdatedSchema.parse(read.value);
      const control = parseControlData(await this.#controlData(directory));
      return control && { directory, control, endLsn: lsnOf(endLsn) };
    } catch {
      return undefined;
    }
  }

  async #makeNew(): Promise<void> {
    const { dataNew, dataOutdated } = this.#paths;
    if (existsSync(dataOutdated)) await this.#putAside(dataOutdated);
    await rm(dataNew, { recursive: true, force: true });
    await mkdir(dataNew, { mode: 0o700 });
    await chmod(dataNew, 0o700);
    if (this.#owner !== undefined) await chown(dataNew, this.#owner.uid, this.#owner.gid);
  }

  async #finish(): Promise<void> {
    const { data, dataNew, root } = this.#paths;
    await this.configure(dataNew);
    await this.#run("initdb", ["--sync-only", "--sync-method=syncfs", `--pgdata=${dataNew}`], {
      timeoutMs: initTimeoutMs,
    });
    await makeDirectoryDurable(root);
    await this.#setRemainsAside();
    await rename(dataNew, data);
    await syncDirectory(root);
  }

  /** Of a data directory that lost what makes it one: kept, once, for whoever wants to know. */
  async #setRemainsAside(): Promise<void> {
    if (!this.exists() && existsSync(this.#paths.data)) await this.setAside();
  }

  async setAside(): Promise<void> {
    await this.#putAside(this.#paths.data);
  }

  async #putAside(directory: string): Promise<void> {
    const { data, root } = this.#paths;
    const aside = `${data}.lost`;
    await rm(aside, { recursive: true, force: true });
    await rename(directory, aside);
    await syncDirectory(root);
  }

  /** For `renew`. `endLsn`: of its log. */
  async setOutdatedAside(endLsn: string): Promise<void> {
    const { data, dataOutdated, outdated, root } = this.#paths;
    await writeCheckedJson(outdated, { endLsn });
    await rm(dataOutdated, { recursive: true, force: true });
    await rename(data, dataOutdated);
    await syncDirectory(root);
  }

  async #controlData(directory: string): Promise<string> {
    const { stdout } = await this.#run("pg_controldata", ["-D", directory], { timeoutMs: 10_000 });
    return stdout;
  }

  async systemIdentifier(): Promise<string> {
    const match = /^Database system identifier:\s+(\d+)$/m.exec(await this.#controlData(this.#paths.data));
    if (match?.[1] === undefined) throw new Error("pg_controldata doesn't print a system identifier");
    return match[1];
  }

  async #run(program: string, args: readonly string[], options: RunOptions): ReturnType<typeof run> {
    const names = Object.keys(process.env).filter((name) => /^(PG|LC_|LANG)/.test(name));
    const without = Object.fromEntries(names.map((name) => [name, undefined]));
    return await run(join(this.#fresh().postgres.binDir, program), args, {
      cwd: this.#paths.run,
      ...options,
      env: { ...without, LC_ALL: cleanEnvironment()["LC_ALL"] },
      ...(this.#owner === undefined ? {} : { user: this.#owner }),
    });
  }
}

/** The last of pg_basebackup's progress reports in this piece of output: "  4096/23000 kB (17%), 0/1 tablespace". */
export function parseCloneProgress(chunk: string): CloneProgress | null {
  const last = [...chunk.matchAll(/(\d+)\/(\d+) kB \(\d+%\)/g)].at(-1);
  if (last === undefined) return null;
  return { doneBytes: Number(last[1]) * 1024, totalBytes: Number(last[2]) * 1024 };
}
