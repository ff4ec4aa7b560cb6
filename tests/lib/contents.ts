// What a database holds, as one comparable value: a hash per table, independent of physical order and file sizes.
import { createHash } from 'node:crypto';
import pg from 'pg';

export type Contents = ReadonlyMap<string, string>;

export async function withClient<T>(url: string, use: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

export async function contentsOf(url: string): Promise<Contents> {
  return withClient(url, async (client) => {
    await client.query('begin transaction isolation level repeatable read read only');
    const { rows: tables } = await client.query<{ name: string }>(
      `select format('%I.%I', n.nspname, c.relname) as name
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and c.relpersistence = 'p'
          and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
        order by 1`,
    );
    const contents = new Map<string, string>();
    for (const { name } of tables) {
      const { rows } = await client.query<{ n: string; h: string }>(
        `select count(*) as n,
                md5(coalesce(sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint), 0)::text) as h
           from ${name} t`,
      );
      contents.set(name, `${rows[0]?.n} rows ${rows[0]?.h}`);
    }
    await client.query('commit');
    return contents;
  });
}

export function fingerprint(contents: Contents): string {
  const hash = createHash('sha256');
  for (const [table, value] of contents) hash.update(`${table}=${value}\n`);
  return hash.digest('hex').slice(0, 16);
}

/** amcheck over every B-tree (with heapallindexed where the node may run it) and every heap; returns what it found. */
export async function amcheck(url: string): Promise<string[]> {
  return withClient(url, async (client) => {
    const problems: string[] = [];
    const { rows: indexes } = await client.query<{ oid: number; name: string }>(
      `select c.oid::int as oid, c.oid::regclass::text as name
         from pg_class c join pg_am a on a.oid = c.relam join pg_index i on i.indexrelid = c.oid
        where a.amname = 'btree' and c.relkind = 'i' and i.indisvalid and c.relpersistence = 'p'`,
    );
    for (const { oid, name } of indexes) {
      await client.query('select bt_index_check($1::oid::regclass, true)', [oid]).catch((error: unknown) => {
        problems.push(`index ${name}: ${String(error)}`);
      });
    }
    const { rows: heaps } = await client.query<{ oid: number; name: string }>(
      `select oid::int as oid, oid::regclass::text as name from pg_class
        where relkind in ('r', 't', 'm') and relpersistence = 'p'`,
    );
    for (const { oid, name } of heaps) {
      const found = await client.query<{ msg: string }>('select msg from verify_heapam($1::oid::regclass)', [oid]);
      for (const { msg } of found.rows) problems.push(`table ${name}: ${msg}`);
    }
    return problems;
  });
}
