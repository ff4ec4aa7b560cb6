/** A plain Postgres of the project's own build in a temporary directory, for the gateway's tests and benchmarks. */
import { appendFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { freePort, makePostgresTempDirectory, runAsPostgres } from "@quorate/common";
import { ensurePostgres, type PostgresBuild } from "../../../scripts/build-postgres.ts";

export type TestPostgres = {
  readonly build: PostgresBuild;
  readonly port: number;
  /** Directory of its socket, where the superuser needs no password. */
  readonly socket: string;
  /** Runs SQL as the superuser, through the socket. */
  sql(text: string, database?: string): Promise<string>;
  kill(): Promise<void>;
  start(): Promise<void>;
  stop(): Promise<void>;
};

export async function startPostgres(settings: Record<string, string | number> = {}): Promise<TestPostgres> {
  const build = await ensurePostgres({ flavour: "stock" });
  const directory = await makePostgresTempDirectory("gateway-");
  const data = path.join(directory, "data");
  const port = await freePort();
  const program = (name: string) => path.join(build.bin, name);
  await runAsPostgres(program("initdb"), [
    "-D",
    data,
    "-U",
    "postgres",
    "-A",
    "trust",
    "--no-sync",
    "-E",
    "UTF8",
    "--locale=C",
  ]);
  const all = {
    port,
    listen_addresses: "'127.0.0.1'",
    unix_socket_directories: `'${directory}'`,
    fsync: "off",
    max_connections: 200,
    max_prepared_transactions: 2,
    wal_level: "logical",
    ...settings,
  };
  await appendFile(
    path.join(data, "postgresql.conf"),
    Object.entries(all)
      .map(([name, value]) => `${name} = ${value}\n`)
      .join(""),
  );
  const hba =
    "local all postgres trust\nhost all trusted 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 trust\n";
  const rest =
    "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
  await writeFile(path.join(data, "pg_hba.conf"), hba + rest);
  const control = (...args: string[]) =>
    runAsPostgres(program("pg_ctl"), ["-D", data, "-l", path.join(directory, "log"), "-s", "-w", ...args], {
      timeoutMs: 60_000,
    });
  const postgres: TestPostgres = {
    build,
    port,
    socket: directory,
    async sql(text, database = "postgres") {
      const result = await runAsPostgres(
        program("psql"),
        [
          "-X",
          "-q",
          "-A",
          "-t",
          "-v",
          "ON_ERROR_STOP=1",
          "-h",
          directory,
          "-p",
          String(port),
          "-U",
          "postgres",
          "-d",
          database,
        ],
        { timeoutMs: 60_000, input: text },
      );
      return result.stdout.trim();
    },
    async kill() {
      await control("stop", "-m", "immediate");
    },
    async start() {
      await control("start");
    },
    async stop() {
      await control("stop", "-m", "immediate").catch(() => {});
      await rm(directory, { recursive: true, force: true });
    },
  };
  await postgres.start();
  return postgres;
}
