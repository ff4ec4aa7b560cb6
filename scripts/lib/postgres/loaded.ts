/**
 * An installation in which PostgreSQL's own test suites run with quorate loaded: `pg_ctl` makes each primary that a
 * test starts the leader of a cohort of one, and each standby a stock one. One server runs for suites that want one.
 */
import { mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { makePostgresTempDirectory, runAsPostgres } from "@quorate/common";
import type { PostgresBuild } from "../../build-postgres.ts";

export type LoadedServer = {
  /** Programs of the build, but with that pg_ctl. */
  readonly bin: string;
  /** Where the server that runs is, and the settings for servers that tests make. */
  readonly env: {
    readonly PGHOST: string;
    readonly PGPORT: string;
    readonly PGUSER: string;
    readonly TEMP_CONFIG: string;
  };
  readonly dispose: () => Promise<void>;
};

const settings = `shared_preload_libraries = 'quorate'
quorate.node_id = 'n1'
quorate.control_socket = 'quorate.ctl'
restart_after_crash = off
`;

/** For the server that runs: what the suites' own temporary servers have, and what contrib's tests want. */
const serverSettings = `${settings}listen_addresses = ''
fsync = off
max_prepared_transactions = 10
wal_level = logical
log_line_prefix = '%m [%p] %q%a '
log_statement = ddl
`;

async function makeBin(build: PostgresBuild, work: string): Promise<string> {
  const bin = path.join(work, "bin");
  await mkdir(bin);
  for (const name of await readdir(build.bin))
    if (name !== "pg_ctl") await symlink(path.join(build.bin, name), path.join(bin, name));
  const script = await readFile(path.join(import.meta.dirname, "pg_ctl-loaded.pl"), "utf8");
  const head = `#!/usr/bin/perl\nBEGIN { our $bin = '${build.bin}'; }\n`;
  await writeFile(path.join(bin, "pg_ctl"), head + script, { mode: 0o755 });
  return bin;
}

export async function startLoadedServer(build: PostgresBuild): Promise<LoadedServer> {
  const work = await makePostgresTempDirectory("quorate-loaded-");
  const bin = await makeBin(build, work);
  const config = path.join(work, "loaded.conf");
  await writeFile(config, settings, { mode: 0o644 });
  const data = path.join(work, "data");
  // The server's own connections, as of dblink, go to itself.
  const env = { PGHOST: work, PGPORT: "5432", PGUSER: "postgres" };
  const pgCtl = (args: readonly string[]) =>
    runAsPostgres(path.join(bin, "pg_ctl"), ["-D", data, ...args], { timeoutMs: 180_000, env });
  await runAsPostgres(path.join(build.bin, "initdb"), [
    ...["-D", data, "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8", "--no-sync"],
  ]);
  const file = path.join(data, "postgresql.conf");
  await writeFile(file, `${serverSettings}unix_socket_directories = '${work}'\n`, { flag: "a" });
  await pgCtl(["-w", "-l", path.join(work, "server.log"), "start"]);
  return {
    bin,
    env: { ...env, TEMP_CONFIG: config },
    dispose: async () => {
      await pgCtl(["-m", "immediate", "stop"]);
      await rm(work, { recursive: true, force: true });
    },
  };
}
