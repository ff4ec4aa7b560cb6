/** SQL as superuser on a Postgres of this machine, by its socket: one connection for one statement. */
import pg from "pg";

export type LocalServer = { readonly socketDirectory: string; readonly port: number };

export type LocalSqlOptions = {
  readonly database?: string;
  readonly values?: readonly string[];
  readonly statementTimeoutMs?: number;
  readonly applicationName?: string;
};

/** Of a server's own archive and backups it knows best itself: it need not prove that it still leads. */
export const readsWithoutProof = "-c quorate.read_proof=none";

const connectTimeoutMs = 5_000;
const defaultStatementTimeoutMs = 60_000;

export async function localQuery(
  { socketDirectory, port }: LocalServer,
  sql: string,
  {
    database = "postgres",
    values = [],
    statementTimeoutMs = defaultStatementTimeoutMs,
    applicationName = "quorate backup",
  }: LocalSqlOptions = {},
): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({
    host: socketDirectory,
    port,
    user: "postgres",
    database,
    application_name: applicationName,
    connectionTimeoutMillis: connectTimeoutMs,
    options: readsWithoutProof,
    statement_timeout: statementTimeoutMs,
  });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql, [...values])).rows;
  } finally {
    await client.end().catch(() => undefined);
  }
}
