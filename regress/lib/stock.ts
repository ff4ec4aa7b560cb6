/**
 * The control of the anomaly tests: the same programs without the extension, n1 as primary, the others as standbys,
 * stock synchronous replication in between.
 */
import { poll } from "@quorate/common";
import { type Cluster, makeCluster, type Server } from "./cluster.ts";

type Teardown = { readonly teardown: (fn: () => Promise<void>) => void };

export type StockOptions = {
  readonly nodes?: number;
  /** synchronous_standby_names of n1, and of whom is promoted. */
  readonly names?: string;
  readonly settings?: readonly string[];
  /** Another installation than ours without the extension. */
  readonly bin?: string;
};

const conninfoOf = (primary: Server, standby: Server): string =>
  `host=${primary.socketDirectory} port=5432 user=postgres application_name=${standby.id}`;

export const untilSql = (server: Server): Promise<unknown> =>
  poll(() => server.value("select 1").catch(() => undefined), {
    what: `SQL on ${server.id}`,
    timeoutMs: 30_000,
  });

/** Streaming, and not faster than what was asked for. */
const untilStreaming = (primary: Server, count: number): Promise<unknown> =>
  poll(
    async () =>
      Number(await primary.value("select count(*) from pg_stat_replication where state = 'streaming'")) >=
      count,
    { what: `${count} standbys to stream`, timeoutMs: 30_000 },
  );

export async function stockCluster(t: Teardown, options: StockOptions = {}): Promise<Cluster> {
  const { bin } = options;
  const cluster = await makeCluster({ nodes: options.nodes ?? 3, ...(bin === undefined ? {} : { bin }) });
  t.teardown(() => cluster.dispose());
  const [primary, ...standbys] = cluster.servers;
  if (primary === undefined) throw new Error("no node");
  for (const server of cluster.servers) {
    await server.configure("shared_preload_libraries = ''");
    await server.configure(`synchronous_standby_names = '${options.names ?? "ANY 1 (n2,n3)"}'`);
    for (const line of options.settings ?? []) await server.configure(line);
  }
  await primary.launch({ standby: false });
  await untilSql(primary);
  for (const standby of standbys) {
    await standby.configure(`primary_conninfo = '${conninfoOf(primary, standby)}'`);
    await standby.launch();
    await untilSql(standby);
  }
  await untilStreaming(primary, standbys.length);
  await primary.sql("create table t (a int)");
  for (const standby of standbys) await standby.untilValue("select count(*) from t", "0");
  return cluster;
}

/** What a coordinator for stock would do to repoint a standby. */
export async function repoint(standby: Server, primary: Server | undefined): Promise<void> {
  const conninfo = primary === undefined ? "" : conninfoOf(primary, standby);
  await standby.configure(`primary_conninfo = '${conninfo}'`);
  await standby.sql("select pg_reload_conf()");
}

export async function promote(standby: Server): Promise<void> {
  await standby.sql("select pg_promote(true, 30)");
  await standby.untilValue("select pg_is_in_recovery()::text", "false");
}
