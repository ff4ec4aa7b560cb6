/**
 * The load of the failover loop, and what its clients know afterwards: rows that were acknowledged, rows that a reader
 * on any node has seen, prepared transactions and how far each had got.
 */
import { sleep } from "@quorate/common";
import type pg from "pg";
import type { Server } from "./cluster.ts";

/** What was last asked for a prepared transaction, and whether that was answered. */
export type Prepared = "preparing" | "prepared" | "finishing";

export type Known = {
  nextId: number;
  readonly acknowledged: Set<number>;
  /** By whom it was seen first. */
  readonly seen: Map<number, string>;
  readonly prepared: Map<number, Prepared>;
  /** Statements that came to their end, by the name of the client. */
  readonly counts: Map<string, number>;
};

export const bulkRows = 2000;

export function knowsNothing(): Known {
  return { nextId: 1, acknowledged: new Set(), seen: new Map(), prepared: new Map(), counts: new Map() };
}

export async function createLoadTables(leader: Server): Promise<void> {
  await leader.sql(`
    create extension if not exists amcheck;
    create extension if not exists quorate;
    create table ack (id int primary key, filler text);
    create table bulk (batch int, n int, filler text);
    create index on bulk (batch);
    create table big (a int primary key, b int, c text);
    insert into big select g, 0, repeat('z', 100) from generate_series(1, 20000) g;
    create index on big (b)`);
}

type Body = (client: pg.Client) => Promise<unknown>;

function count(known: Known, name: string): void {
  known.counts.set(name, (known.counts.get(name) ?? 0) + 1);
}

async function insertOne(client: pg.Client, known: Known): Promise<void> {
  const id = known.nextId++;
  await client.query("insert into ack values ($1, repeat('x', 200))", [id]);
  known.acknowledged.add(id);
}

async function insertMany(client: pg.Client, known: Known): Promise<void> {
  const id = known.nextId++;
  await client.query("begin");
  await client.query(
    `insert into bulk select $1, g, repeat(md5(g::text), 3) from generate_series(1, ${bulkRows}) g`,
    [id],
  );
  await client.query("insert into ack values ($1, 'bulk')", [id]);
  await client.query("commit");
  known.acknowledged.add(id);
  await client.query("delete from bulk where batch < $1 - 400", [id]);
}

async function inTwoPhases(client: pg.Client, known: Known): Promise<void> {
  const id = known.nextId++;
  await client.query("begin");
  await client.query("insert into ack values ($1, 'prepared')", [id]);
  known.prepared.set(id, "preparing");
  await client.query(`prepare transaction 'p${id}'`);
  known.prepared.set(id, "prepared");
  await sleep(id % 20);
  known.prepared.set(id, "finishing");
  await client.query(`commit prepared 'p${id}'`);
  known.acknowledged.add(id);
  known.prepared.delete(id);
}

async function defineData(client: pg.Client, known: Known): Promise<void> {
  const id = known.nextId++;
  const name = `ddl_${id}`;
  const rows = 50 + (id % 7) * 200;
  await client.query(
    `create table ${name} as select g as a, repeat('y', 50) as b from generate_series(1, ${rows}) g`,
  );
  await client.query(`create index ${name}_a on ${name} (a)`);
  await client.query(`alter table ${name} add column c int default ${id}`);
  if (id % 3 === 0) await client.query(`truncate ${name}`);
  if (id % 5 === 0) await client.query(`create index concurrently on ${name} (b, a)`);
  if (id % 7 === 0) await client.query(`vacuum full ${name}`);
  if (id % 4 === 0) await client.query(`reindex table ${name}`);
  if (id % 2 === 0) await client.query(`drop table ${name}`);
}

/** Rows locked by several transactions at once, with subtransactions: multixacts. */
async function shareLocks(client: pg.Client, known: Known): Promise<void> {
  const from = (known.nextId * 7) % 19_000;
  await client.query("begin");
  await client.query("select from big where a between $1 and $1 + 20 for key share", [from]);
  await client.query("savepoint s");
  await client.query("update big set c = c || '' where a = $1", [from]);
  if (from % 2 === 0) await client.query("rollback to s");
  await client.query("commit");
}

async function maintain(client: pg.Client, known: Known): Promise<void> {
  const n = known.counts.get("maintenance") ?? 0;
  const statements = [
    "checkpoint",
    "vacuum big",
    "checkpoint",
    "vacuum (freeze, analyze) ack",
    "vacuum bulk",
  ];
  await client.query(statements[n % statements.length] ?? "checkpoint");
  await sleep(50);
}

/** Errors that a client in this load may meet without its connection having ended. */
const tolerated = new Set([
  "40P01", // deadlock
  "40001",
  "57014", // cancelled
]);

export type Load = { readonly stop: () => Promise<void> };

/** Each client goes on until its connection breaks or the load is stopped; a stop doesn't wait for the stuck. */
export async function startLoad(leader: Server, known: Known): Promise<Load> {
  let stopped = false;
  const loops: Promise<void>[] = [];
  const clients: pg.Client[] = [];
  const start = async (name: string, body: Body) => {
    const client = await leader.connect();
    clients.push(client);
    const loop = async () => {
      while (!stopped) {
        try {
          await body(client);
          count(known, name);
        } catch (error) {
          if (!tolerated.has((error as { code?: string }).code ?? "")) return;
          await client.query("rollback").catch(() => undefined);
        }
      }
    };
    loops.push(loop());
  };
  for (let i = 0; i < 5; i++) await start("insert", (client) => insertOne(client, known));
  for (let i = 0; i < 2; i++) await start("share locks", (client) => shareLocks(client, known));
  await start("two phases", (client) => inTwoPhases(client, known));
  await start("bulk", (client) => insertMany(client, known));
  await start("update", (client) =>
    client.query("update big set b = b + 1 where a % 97 = $1", [known.nextId % 97]),
  );
  await start("ddl", (client) => defineData(client, known));
  await start("maintenance", (client) => maintain(client, known));
  const open = await leader.connect();
  clients.push(open);
  await open.query("begin");
  await open.query("update big set b = -1 where a < 3000").catch((error: { code?: string }) => {
    if (!tolerated.has(error.code ?? "")) throw error;
  });
  return {
    stop: async () => {
      stopped = true;
      await open.query("rollback").catch(() => undefined);
      await Promise.all(loops);
      for (const client of clients) await client.end().catch(() => undefined);
    },
  };
}

/** One reader on each node, whatever its state, all the time: what it has seen must never vanish. */
export function startReaders(servers: readonly Server[], known: Known): Load {
  let stopped = false;
  const loops = servers.map(async (server) => {
    let client: pg.Client | undefined;
    while (!stopped) {
      try {
        client ??= await server.connect("-cstatement_timeout=5000");
        const { rows } = await client.query<{ id: number }>(
          "select id from ack where id > 0 order by id desc limit 60",
        );
        for (const { id } of rows) if (!known.seen.has(id)) known.seen.set(id, server.id);
        count(known, `reads on ${server.id}`);
      } catch {
        // the node is down or starting, or the snapshot was too old for it
        await client?.end().catch(() => undefined);
        client = undefined;
      }
      await sleep(10);
    }
    await client?.end().catch(() => undefined);
  });
  return {
    stop: async () => {
      stopped = true;
      await Promise.all(loops);
    },
  };
}
