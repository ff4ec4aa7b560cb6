// The claims of the project, as checks: nothing acknowledged is lost, all nodes hold the same, no file is damaged.
import { poll } from "@quorate/common";
import { parseLsn } from "@quorate/consensus/types.ts";
import type { AppendClient } from "./append-client.ts";
import type { TestCluster } from "./cluster.ts";
import { amcheck, type Contents, contentsOf, withClient } from "./contents.ts";

export interface Verdict {
  /** Acknowledged ids that a node lacks. */
  readonly lost: Readonly<Record<string, readonly number[]>>;
  /** Ids that are there though nobody ever sent them or the server said that it didn't execute them. */
  readonly unexplained: Readonly<Record<string, readonly number[]>>;
  readonly contents: Readonly<Record<string, Contents>>;
  readonly damage: Readonly<Record<string, readonly string[]>>;
}

export async function createAppendLog(cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  await withClient(cluster.superuser(leader), async (client) => {
    await client.query("create extension if not exists amcheck");
  });
  await withClient(cluster.url(leader), async (client) => {
    await client.query(
      "create table append_log (id bigint primary key, at timestamptz default clock_timestamp())",
    );
  });
}

/** Everybody has applied what the leader has committed. */
export async function waitForEqualPositions(cluster: TestCluster, timeoutMs = 60_000): Promise<void> {
  const leader = await cluster.leader();
  const target = await withClient(cluster.superuser(leader), async (client) => {
    const { rows } = await client.query<{ lsn: string }>("select pg_current_wal_insert_lsn()::text as lsn");
    return parseLsn(rows[0]?.lsn ?? "") ?? 0n;
  });
  await poll(
    async () => {
      const { nodes } = await cluster.picture();
      return nodes.every((node) => node.id === leader || (parseLsn(node.appliedLsn ?? "") ?? 0n) >= target);
    },
    { what: `all nodes to apply the log of ${leader}`, timeoutMs },
  );
}

export async function judgeCluster(cluster: TestCluster, clients: readonly AppendClient[]): Promise<Verdict> {
  await cluster.waitUntilWhole();
  await waitForEqualPositions(cluster);
  const acked = new Set(clients.flatMap((client) => client.acks.map(({ id }) => id)));
  const possible = new Set(clients.flatMap((client) => client.inDoubt));
  const lost: Record<string, number[]> = {};
  const unexplained: Record<string, number[]> = {};
  const contents: Record<string, Contents> = {};
  const damage: Record<string, string[]> = {};
  for (const id of cluster.ids) {
    const present = await presentIds(cluster, id);
    lost[id] = [...acked].filter((each) => !present.has(each));
    unexplained[id] = [...present].filter((each) => !acked.has(each) && !possible.has(each));
    contents[id] = await contentsOf(cluster.superuser(id));
    damage[id] = await amcheck(cluster.superuser(id));
  }
  return { lost, unexplained, contents, damage };
}

async function presentIds(cluster: TestCluster, node: string): Promise<Set<number>> {
  return withClient(cluster.superuser(node), async (client) => {
    const { rows } = await client.query<{ id: string }>("select id from append_log");
    return new Set(rows.map(({ id }) => Number(id)));
  });
}

/** For each node the same value. */
export function forEach<T>(cluster: TestCluster, value: T): Record<string, T> {
  return Object.fromEntries(cluster.ids.map((id) => [id, value]));
}
