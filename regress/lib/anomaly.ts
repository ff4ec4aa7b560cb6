/** The same steps on both kinds of cluster: ours must not show the anomaly, stock must. */
import { poll, sleep } from "@quorate/common";
import type pg from "pg";
import type { Cluster, Server } from "./cluster.ts";
import { type StockOptions, stockCluster, untilSql } from "./stock.ts";
import { threeNodes } from "./three-nodes.ts";

type Teardown = { readonly teardown: (fn: () => Promise<void>) => void };

export const kinds = ["two-phase", "stock"] as const;
export type Kind = (typeof kinds)[number];

export type Trio = {
  readonly kind: Kind;
  readonly cluster: Cluster;
  readonly n1: Server;
  readonly n2: Server;
  readonly n3: Server;
};

export type TrioOptions = StockOptions & { readonly rule?: string };

/** n1 leads, n2 and n3 follow, table t is empty. By default n1 and any one of the others make a commit durable. */
export async function trio(t: Teardown, kind: Kind, options: TrioOptions = {}): Promise<Trio> {
  const cluster =
    kind === "stock"
      ? await stockCluster(t, options)
      : await threeNodes(t, options.rule ?? "2(n1,1(n2,n3))", options.settings);
  return { kind, cluster, n1: cluster.node("n1"), n2: cluster.node("n2"), n3: cluster.node("n3") };
}

/** Both kinds of wait have the same name. */
export const untilCommitWaits = (leader: Server, count = 1): Promise<unknown> =>
  poll(async () => (await waitingPids(leader)).length >= count, {
    what: `${count} commits to wait on ${leader.id}`,
    timeoutMs: 20_000,
  });

export async function waitingPids(leader: Server): Promise<number[]> {
  const rows = await leader.sql(
    "select pid from pg_stat_activity where wait_event = 'SyncRep' and backend_type = 'client backend'",
  );
  return rows.map(([pid]) => Number(pid));
}

export type Begun = {
  /** "acknowledged", or the error that the client got. */
  readonly outcome: Promise<string>;
  readonly client: pg.Client;
};

/** Starts a statement whose commit waits when this returns. */
export async function begun(leader: Server, statement: string, options = ""): Promise<Begun> {
  const client = await leader.connect(options);
  const before = (await waitingPids(leader)).length;
  const outcome = client.query(statement).then(
    () => "acknowledged",
    (error: unknown) => `failed: ${String(error)}`,
  );
  await untilCommitWaits(leader, before + 1);
  return { outcome, client };
}

/** How long to look: ours gets the time in which it could show the anomaly, stock the time until it does. */
export const patienceMs = (kind: Kind, shortMs = 400): number => (kind === "stock" ? 15_000 : shortMs);

/** Does it show rows within that time? */
export async function showsRows(
  server: Server,
  query = "select count(*) from t",
  forMs = 400,
): Promise<boolean> {
  const deadlineMs = performance.now() + forMs;
  for (;;) {
    const shown = await server.value(query).catch(() => "0");
    if (shown !== "0" && shown !== null) return true;
    if (performance.now() > deadlineMs) return false;
    await sleep(20);
  }
}

/** Its machine dies and comes back: as what it was with stock, as a fenced follower with ours. */
export async function restart({ kind }: Trio, server: Server): Promise<void> {
  await server.kill9();
  if (kind === "stock") await server.launch({ standby: false });
  else await server.start();
  await untilSql(server);
}
