/**
 * A direct connection, PgBouncer and the gateway, in turns: transactions per second and the proxy's CPU time per
 * transaction as the operating system counts it. Other work on the machine moves the former much and the latter
 * little; compare only inside one run. `npm run bench:gateway -- --rounds 5 --transactions 20000`
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import * as net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { freePort, postgresUser, run } from "@quorate/common";
import { Command } from "commander";
import { startPostgres, type TestPostgres } from "../gateway/test/lib/postgres.ts";
import { repoRoot } from "../scripts/lib/repo.ts";
import { findPgbouncer } from "./gateway-pgbouncer.ts";

const options = new Command()
  .option("--rounds <count>", "rounds, medians are taken of", "3")
  .option("--transactions <count>", "transactions per measurement", "20000")
  .option("--clients <list>", "numbers of clients", "1,8,64")
  .option("--modes <list>", "query modes of pgbench", "simple,extended,prepared")
  .option(
    "--targets <list>",
    "of direct, pgbouncer, gateway-net, gateway-native",
    "direct,pgbouncer,gateway-net,gateway-native",
  )
  .option("--pool <count>", "server connections", "16")
  .option("--idle <list>", "memory at so many idle clients", "")
  .parse()
  .opts<Record<"rounds" | "transactions" | "clients" | "modes" | "targets" | "pool" | "idle", string>>();

type Target = { readonly name: string; readonly port: number; readonly child: ChildProcess | undefined };

/** CPU time of all threads of a process. */
function cpuMicroseconds(pid: number): number {
  let nanoseconds = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]);
  }
  return nanoseconds / 1000;
}

function privateKb(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return [...text.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB/gm)].reduce(
    (sum, found) => sum + Number(found[1]),
    0,
  );
}

async function listening(port: number): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
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

async function startTarget(name: string, postgres: TestPostgres, directory: string): Promise<Target> {
  if (name === "direct") return { name, port: postgres.port, child: undefined };
  const port = await freePort();
  if (name === "pgbouncer") {
    const { file, env } = await findPgbouncer();
    const ini = path.join(directory, "pgbouncer.ini");
    await writeFile(
      ini,
      `[databases]\npostgres = host=${postgres.socket} port=${postgres.port} user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=${port}\nunix_socket_dir=\nauth_type=any\npool_mode=transaction\ndefault_pool_size=${options.pool}\nmax_client_conn=30000\nlogfile=/dev/null\n${await preparedOption(file, env)}`,
    );
    const user = postgresUser();
    const child = spawn(file, ["-q", ini], {
      env: { ...process.env, ...env },
      stdio: "ignore",
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
    });
    await listening(port);
    return { name, port, child };
  }
  const config = path.join(directory, `${name}.json`);
  await writeFile(
    config,
    JSON.stringify({
      listen: { port },
      server: { host: postgres.socket, port: postgres.port },
      authentication: { method: "trust" },
      transport: name === "gateway-native" ? "native" : "net",
      pool: { size: Number(options.pool) },
      limits: { clients: 30_000 },
      log: { level: "warn" },
    }),
  );
  const child = spawn(process.execPath, ["gateway/src/main.ts", "--config", config], {
    cwd: repoRoot,
    stdio: "inherit",
  });
  await listening(port);
  return { name, port, child };
}

/** PgBouncer 1.21 and later can keep prepared statements. */
async function preparedOption(file: string, env: Record<string, string>): Promise<string> {
  const { stdout } = await run(file, ["--version"], { env });
  const version = /PgBouncer (\d+)\.(\d+)/.exec(stdout);
  return Number(version?.[2] ?? 0) >= 21 ? "max_prepared_statements=200\n" : "";
}

type Result = { readonly tps: number; readonly cpu: number | undefined };

async function measure(
  target: Target,
  postgres: TestPostgres,
  mode: string,
  clients: number,
): Promise<Result | undefined> {
  const perClient = Math.max(1, Math.round(Number(options.transactions) / clients));
  const before = target.child?.pid === undefined ? 0 : cpuMicroseconds(target.child.pid);
  const args = ["-h", "127.0.0.1", "-p", String(target.port), "-U", "postgres", "-n", "-S", "-M", mode];
  const result = await run(
    path.join(postgres.build.bin, "pgbench"),
    [...args, "-c", String(clients), "-j", "1", "-t", String(perClient), "postgres"],
    { timeoutMs: 300_000, okCodes: [0, 1, 2] },
  );
  const tps = Number(/tps = ([\d.]+)/.exec(result.stdout)?.[1]);
  if (result.code !== 0 || !(tps > 0)) return undefined;
  const after = target.child?.pid === undefined ? 0 : cpuMicroseconds(target.child.pid);
  return { tps, cpu: target.child === undefined ? undefined : (after - before) / (perClient * clients) };
}

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
};

async function idleMemory(target: Target, count: number): Promise<number | undefined> {
  const pid = target.child?.pid;
  if (pid === undefined) return undefined;
  const { RawClient } = await import("../gateway/test/lib/raw-client.ts");
  const before = privateKb(pid);
  const clients: { close(): void }[] = [];
  for (let at = 0; at < count; at += 50) {
    const some = Array.from({ length: Math.min(50, count - at) }, () =>
      RawClient.login(target.port, { user: "postgres", database: "postgres" }),
    );
    clients.push(...(await Promise.all(some)));
  }
  const after = privateKb(pid);
  for (const each of clients) each.close();
  return ((after - before) * 1024) / count;
}

const directory = await mkdtemp(path.join(tmpdir(), "bench-gateway-"));
await chmod(directory, 0o755);
const postgres = await startPostgres({
  max_connections: 300,
  shared_buffers: "'256MB'",
  synchronous_commit: "off",
});
const targets: Target[] = [];
try {
  await run(
    path.join(postgres.build.bin, "pgbench"),
    ["-h", "127.0.0.1", "-p", String(postgres.port), "-U", "postgres", "-i", "-q", "-s", "10", "postgres"],
    { timeoutMs: 120_000 },
  );
  for (const name of options.targets.split(",")) targets.push(await startTarget(name, postgres, directory));
  console.log(
    `pool ${options.pool}, ${options.transactions} transactions, medians of ${options.rounds} rounds; CPU of the proxy in µs per transaction`,
  );
  for (const mode of options.modes.split(",")) {
    for (const clients of options.clients.split(",").map(Number)) {
      const results = new Map<string, Result[]>();
      for (const target of targets) await measure(target, postgres, mode, clients); // warm up
      for (let round = 0; round < Number(options.rounds); round++) {
        for (const target of round % 2 === 0 ? targets : [...targets].reverse()) {
          const result = await measure(target, postgres, mode, clients);
          if (result !== undefined) results.set(target.name, [...(results.get(target.name) ?? []), result]);
        }
      }
      const cpuOf = (name: string) => median((results.get(name) ?? []).map((each) => each.cpu ?? Number.NaN));
      const tpsOf = (name: string) => median((results.get(name) ?? []).map((each) => each.tps));
      for (const { name, child } of targets) {
        const cpu =
          child === undefined
            ? ""
            : `  cpu ${cpuOf(name).toFixed(1)}  ÷pgbouncer ${(cpuOf(name) / cpuOf("pgbouncer")).toFixed(2)}`;
        const tps = `${tpsOf(name).toFixed(0)} tps  ÷direct ${(tpsOf(name) / tpsOf("direct")).toFixed(2)}`;
        console.log(
          `${mode.padEnd(9)} ${String(clients).padStart(3)} clients  ${name.padEnd(15)} ${tps}${cpu}`,
        );
      }
    }
  }
  for (const count of options.idle.split(",").filter(Boolean).map(Number)) {
    for (const target of targets) {
      const bytes = await idleMemory(target, count);
      if (bytes !== undefined)
        console.log(`${count} idle clients  ${target.name.padEnd(15)} ${bytes.toFixed(0)} bytes each`);
    }
  }
} finally {
  for (const { child } of targets) child?.kill("SIGKILL");
  await postgres.stop();
  await rm(directory, { recursive: true, force: true });
}
