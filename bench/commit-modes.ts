/** The servers that `bench:commit` compares, each with three nodes, fsync on, the network's delay in between. */
import { type ChildProcess, spawn } from "node:child_process";
import { rm, stat } from "node:fs/promises";
import path from "node:path";
import { asPostgres, poll, run, runAsPostgres } from "@quorate/common";
import { type Cluster, expectOk, makeCluster, type Server } from "../regress/lib/cluster.ts";
import { stockCluster } from "../regress/lib/stock.ts";

export const modes = ["quorate", "on", "remote_apply", "async"] as const;
export type Mode = (typeof modes)[number];

export type Contestants = {
  /** The server to load in that mode, ready for it. */
  readonly use: (mode: Mode) => Promise<Server>;
  readonly dispose: () => Promise<void>;
};

const settings = [
  "shared_buffers = 256MB",
  "max_wal_size = 512MB",
  "checkpoint_timeout = 30s",
  "wal_keep_size = 1GB",
  "autovacuum_naptime = 10s",
];

async function buildProxy(directory: string): Promise<string> {
  const program = path.join(directory, "delay-proxy");
  await run("cc", ["-O2", "-o", program, path.join(import.meta.dirname, "lib/delay-proxy.c")]);
  return program;
}

type Proxy = { readonly directory: string; readonly child: ChildProcess };

/** In front of a leader: whoever connects there is half a round trip away in each direction. */
async function startProxy(cluster: Cluster, leader: Server, roundTripMs: number): Promise<Proxy> {
  const program = await buildProxy(cluster.dir);
  const directory = path.join(cluster.dir, "far");
  await runAsPostgres("mkdir", [directory]);
  const [near, far] = [leader.socketDirectory, directory].map((each) => path.join(each, ".s.PGSQL.5432"));
  const args = [far ?? "", near ?? "", String((roundTripMs * 1000) / 2)];
  const child = spawn(program, args, asPostgres({ stdio: ["ignore", "inherit", "inherit"] }));
  await poll(() => stat(far ?? "").catch(() => undefined), { what: "the proxy", timeoutMs: 5000 });
  return { directory, child };
}

const followersOf = (cluster: Cluster): Server[] => cluster.servers.slice(1);

async function initialize(cluster: Cluster, leader: Server, scale: number): Promise<void> {
  const args = ["-i", "-q", "-s", String(scale), "-h", leader.socketDirectory, "-U", "postgres", "postgres"];
  await runAsPostgres(path.join(cluster.bin, "pgbench"), args, { timeoutMs: 600_000 });
  await leader.sql("checkpoint", 120_000);
}

async function ours(scale: number, roundTripMs: number): Promise<{ cluster: Cluster; proxies: Proxy[] }> {
  const cluster = await makeCluster({ nodes: 3, settings });
  await Promise.all(cluster.servers.map((server) => server.start()));
  const leader = cluster.node("n1");
  const proxies: Proxy[] = [];
  // the same nodes as in ANY 1 (n2,n3): the leader and one of the others
  await cluster.lead("n1", 2, "2(n1,1(n2,n3))", ["n2", "n3"]);
  await initialize(cluster, leader, scale);
  if (roundTripMs > 0) {
    const proxy = await startProxy(cluster, leader, roundTripMs);
    proxies.push(proxy);
    for (const { id, ask } of followersOf(cluster)) {
      expectOk(await ask({ cmd: "fence", term: 2 }));
      const conninfo = leader.conninfoFor(id).replace(leader.socketDirectory, proxy.directory);
      expectOk(await ask({ cmd: "follow", term: 2, leader: "n1", conninfo }));
    }
  }
  return { cluster, proxies };
}

async function theirs(
  bin: string,
  scale: number,
  roundTripMs: number,
): Promise<{ cluster: Cluster; proxies: Proxy[] }> {
  const cluster = await stockCluster({ teardown: () => undefined }, { bin, names: "", settings });
  const leader = cluster.node("n1");
  const proxies: Proxy[] = [];
  await initialize(cluster, leader, scale);
  if (roundTripMs > 0) {
    const proxy = await startProxy(cluster, leader, roundTripMs);
    proxies.push(proxy);
    for (const standby of followersOf(cluster)) {
      const conninfo = `host=${proxy.directory} port=5432 user=postgres application_name=${standby.id}`;
      await standby.configure(`primary_conninfo = '${conninfo}'`);
      await standby.sql("select pg_reload_conf()");
    }
  }
  return { cluster, proxies };
}

const stockSettings: Readonly<Record<Exclude<Mode, "quorate">, readonly [names: string, level: string]>> = {
  on: ["ANY 1 (n2,n3)", "on"],
  remote_apply: ["ANY 1 (n2,n3)", "remote_apply"],
  async: ["", "on"],
};

async function setStock(leader: Server, mode: Exclude<Mode, "quorate">): Promise<void> {
  const [names, level] = stockSettings[mode];
  await leader.configure(`synchronous_standby_names = '${names}'`);
  await leader.configure(`synchronous_commit = ${level}`);
  await leader.sql("select pg_reload_conf()");
  await leader.untilValue("show synchronous_standby_names", names);
  await leader.untilValue("show synchronous_commit", level);
}

/** Both followers stream and have applied everything. */
async function followed(leader: Server): Promise<void> {
  const upToDate = `select count(*) from pg_stat_replication
    where state = 'streaming' and replay_lsn >= (select pg_current_wal_flush_lsn())`;
  await poll(async () => (await leader.value(upToDate)) === "2", {
    what: "both followers to apply everything",
    timeoutMs: 60_000,
  });
}

/** All of them run all the time; who isn't measured is idle. */
export async function contestants(
  stockBin: string,
  scale: number,
  roundTripMs: number,
): Promise<Contestants> {
  const own = await ours(scale, roundTripMs);
  const stock = await theirs(stockBin, scale, roundTripMs);
  return {
    async use(mode) {
      const { cluster } = mode === "quorate" ? own : stock;
      const leader = cluster.node("n1");
      if (mode !== "quorate") await setStock(leader, mode);
      // Nobody pays for what the one before him left to replay, and everybody pays the same for full page images: who
      // runs for a quarter of the time would otherwise always run right after a checkpoint.
      for (const each of [own, stock]) await followed(each.cluster.node("n1"));
      await leader.sql("checkpoint", 120_000);
      await followed(leader);
      return leader;
    },
    async dispose() {
      for (const { cluster, proxies } of [own, stock]) {
        await cluster.dispose();
        for (const { child } of proxies) child.kill("SIGKILL");
        await rm(cluster.dir, { recursive: true, force: true });
      }
    },
  };
}
