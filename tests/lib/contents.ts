// What a database holds, as one comparable value: a hash per table, independent of physical order and file sizes.
import pg, { type ClientConfig } from "pg";

export type Contents = Readonly<Record<string, string>>;

export async function withClient<T>(
  target: string | ClientConfig,
  use: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const config = typeof target === "string" ? { connectionString: target } : target;
  const client = new pg.Client({ ...config, connectionTimeoutMillis: 5_000 });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

export async function contentsOf(target: string | ClientConfig): Promise<Contents> {
  return withClient(target, async (client) => {
    await client.query("begin transaction isolation level repeatable read read only");
    const { rows: tables } = await client.query<{ name: string }>(
      `select format('%I.%I', n.nspname, c.relname) as name
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and c.relpersistence = 'p'
          and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
        order by 1`,
    );
    const contents: Record<string, string> = {};
    for (const { name } of tables) {
      const { rows } = await client.query<{ n: string; h: string }>(
        `select count(*) as n,
                coalesce(sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint), 0) as h
           from ${name} t`,
      );
      contents[name] = `${rows[0]?.n} rows, hash ${rows[0]?.h}`;
    }
    await client.query("commit");
    return contents;
  });
}

/**
 * Where a prepared transaction is older than one that died with its leader, a standby takes the dead one for running until
 * the prepared one is ended (PostgreSQL forgets all below the oldest running transaction), and amcheck there complains of
 * a version that it left behind in an update chain. On the leader it doesn't. Where a standby takes nothing for running
 * the complaint counts.
 */
const orphanOfRunning = "tuple is root of chain but is marked as heap-only tuple";

/** amcheck over every B-tree (with its heap) and every heap, as superuser; returns what it found. */
export async function amcheck(target: ClientConfig): Promise<string[]> {
  return withClient(target, async (client) => {
    const problems: string[] = [];
    const { rows: indexes } = await client.query<{ name: string }>(
      `select c.oid::regclass::text as name
         from pg_class c join pg_am a on a.oid = c.relam join pg_index i on i.indexrelid = c.oid
        where a.amname = 'btree' and c.relkind = 'i' and i.indisvalid and c.relpersistence = 'p'`,
    );
    for (const { name } of indexes) {
      await client.query("select bt_index_check($1::regclass, true)", [name]).catch((error: unknown) => {
        problems.push(`index ${name}: ${String(error)}`);
      });
    }
    const { rows: heaps } = await client.query<{ name: string }>(
      `select oid::regclass::text as name from pg_class
        where relkind in ('r', 't', 'm') and relpersistence = 'p'`,
    );
    for (const { name } of heaps) {
      const found = await client.query<{ msg: string }>(
        `select msg from verify_heapam($1::regclass), pg_current_snapshot() as seen
          where not (msg = $2 and pg_is_in_recovery() and pg_snapshot_xmin(seen) < pg_snapshot_xmax(seen))`,
        [name, orphanOfRunning],
      );
      for (const { msg } of found.rows) problems.push(`table ${name}: ${msg}`);
    }
    return problems;
  });
}
