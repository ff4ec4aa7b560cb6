/** What bench/gateway.ts compares, each started with the same pool in front of the same server. */
import { type ChildProcess, spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import * as net from "node:net";
import path from "node:path";
import { freePort, postgresUser } from "@quorate/common";
import type { TestPostgres } from "../gateway/test/lib/postgres.ts";
import { repoRoot } from "../scripts/lib/repo.ts";
import { findPgbouncer, keepsPrepared, pgbouncerVersion } from "./gateway-pgbouncer.ts";

export type Target = {
  readonly name: string;
  readonly port: number;
  /** Undefined: the server itself. */
  readonly pid: number | undefined;
  stop(): void;
};

export type TargetOptions = {
  readonly postgres: TestPostgres;
  readonly directory: string;
  readonly pool: number;
  readonly certFile: string;
  readonly keyFile: string;
};

const mostClients = 30_000;

export async function startTarget(name: string, options: TargetOptions): Promise<Target> {
  const { postgres } = options;
  if (name === "direct") return { name, port: postgres.port, pid: undefined, stop() {} };
  const port = await freePort();
  const child = name === "pgbouncer" ? await pgbouncer(port, options) : await gateway(name, port, options);
  await listening(port);
  return { name, port, pid: child.pid, stop: () => child.kill("SIGKILL") };
}

/** `exec` keeps the process id; root may raise the limit, others get what they have. */
function spawnWithFiles(
  command: readonly string[],
  options: { cwd?: string; env?: Record<string, string>; uid?: number; gid?: number },
): ChildProcess {
  const script = 'ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$@"';
  const { env, uid, gid, ...rest } = options;
  const dropped = uid === undefined ? [] : ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"];
  return spawn("sh", ["-c", script, "sh", ...dropped, ...command], {
    ...rest,
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "inherit"],
  });
}

async function pgbouncer(port: number, options: TargetOptions): Promise<ChildProcess> {
  const { postgres, directory, certFile, keyFile } = options;
  const file = await findPgbouncer();
  const ini = path.join(directory, "pgbouncer.ini");
  const lines = [
    "[databases]",
    `postgres = host=${postgres.socket} port=${postgres.port} user=postgres`,
    "[pgbouncer]",
    "listen_addr=127.0.0.1",
    `listen_port=${port}`,
    "unix_socket_dir=",
    "auth_type=any",
    "pool_mode=transaction",
    `default_pool_size=${options.pool}`,
    `max_client_conn=${mostClients}`,
    "client_tls_sslmode=allow",
    `client_tls_cert_file=${certFile}`,
    `client_tls_key_file=${keyFile}`,
    "logfile=/dev/null",
    ...(keepsPrepared(await pgbouncerVersion(file)) ? ["max_prepared_statements=200"] : []),
  ];
  await writeFile(ini, `${lines.join("\n")}\n`);
  return spawnWithFiles([file, "-q", ini], { ...postgresUser() });
}

async function gateway(name: string, port: number, options: TargetOptions): Promise<ChildProcess> {
  const { postgres, directory, certFile, keyFile } = options;
  // Another tree's gateway, for comparing with an older one: gateway-native@/srv/before
  const [what = "", root = repoRoot] = name.split("@");
  const config = path.join(directory, `${name.replaceAll(/[@/]/g, "_")}.json`);
  const [, transport = "native", workers = "1"] = what.split("-");
  const content = {
    listen: { port },
    server: { host: postgres.socket, port: postgres.port },
    authentication: { method: "trust" },
    transport,
    workers: Number(workers),
    tls: { certFile, keyFile },
    pool: { size: options.pool },
    limits: { clients: mostClients },
    log: { level: "warn" },
  };
  await writeFile(config, JSON.stringify(content));
  return spawnWithFiles([process.execPath, "gateway/src/main.ts", "--config", config], { cwd: root });
}

async function listening(port: number): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt++) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = net.connect(port, "127.0.0.1", () => {
        socket.destroy();
        resolve(true);
      });
      socket.on("error", () => resolve(false));
    });
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`nothing listens on port ${port}`);
}
