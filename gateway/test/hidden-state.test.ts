// State that a statement's text doesn't show: triggers, views, operators and functions that leave settings, temporary
// tables, locks, channels, plans, cursors or a role behind. With the extension on the server nothing of it reaches
// another client. GATEWAY_FUZZ_PROGRAMS and GATEWAY_FUZZ_SEED as in session-fuzz.test.ts.
import path from "node:path";
import { runAsPostgres } from "@quorate/common";
import pg from "pg";
import t from "tap";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { startLoadedServer } from "../../scripts/lib/postgres/loaded.ts";
import { startTestGateway, type TestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { onlyLeft, runProgram, scatter } from "./lib/programs.ts";
import type { Random } from "./lib/random.ts";
import { RawClient, wire } from "./lib/raw-client.ts";

const programs = Number(process.env["GATEWAY_FUZZ_PROGRAMS"] ?? 15);
const firstSeed = Number(process.env["GATEWAY_FUZZ_SEED"] ?? 1);
t.setTimeout(120_000 + programs * 4_000);

const schema = `
create schema one;
create table hits (what text);
create function hidden() returns trigger language plpgsql as $$
begin
  case new.what
    when 'setting' then perform set_config('my.hidden', 'trigger', false);
    when 'computed' then perform set_config('my.' || 'hidden', 'computed', false);
    when 'work_mem' then perform set_config('work_mem', '3MB', false);
    when 'path' then perform set_config('search_path', 'one, public', false);
    when 'temp' then
      create temp table if not exists secret (a int);
      insert into secret values (1);
    when 'lock' then perform pg_try_advisory_lock(42);
    when 'shared' then execute 'select pg_try_advisory_lock_shared(4, 3)';
    when 'listen' then execute 'listen hidden_news';
    when 'prepare' then execute 'prepare hidden_plan as select 1';
    when 'cursor' then execute 'declare hidden_cursor cursor with hold for select 1';
    when 'role' then perform set_config('role', 'other', false);
    else null;
  end case;
  return new;
end $$;
create trigger hidden before insert on hits for each row execute function hidden();
create view peek as select set_config('my.hidden', 'view', false) as v;
create function lock_it(a int, b int) returns boolean language plpgsql as
  $$ begin return pg_try_advisory_lock(a, b); end $$;
create operator @@@ (leftarg = int, rightarg = int, function = lock_it);
create table defaulted (n int, v text default set_config('my.hidden', 'default', false));
create function prepared_count() returns int language sql as
  $$ select count(*)::int from pg_prepared_statements where name !~ '^__' $$;
grant all on all tables in schema public to other;
`;

const kinds = [
  "setting",
  "computed",
  "work_mem",
  "path",
  "temp",
  "lock",
  "shared",
  "listen",
  "prepare",
  "cursor",
];

const loaded = await startLoadedServer(await ensurePostgres({ flavour: "quorate" }));
t.teardown(() => loaded.dispose());
const sql = (text: string, database = "postgres") =>
  runAsPostgres(
    path.join(loaded.bin, "psql"),
    ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", loaded.env.PGHOST, "-U", "postgres", "-d", database],
    { input: text, timeoutMs: 60_000 },
  );
await sql("create role other;\ncreate database direct;\ncreate database pooled;");
for (const database of ["direct", "pooled"]) await sql(`create extension quorate; ${schema}`, database);
const server = { host: loaded.env.PGHOST, port: Number(loaded.env.PGPORT) };
const gateway = await startTestGateway(server, { pool: { size: 4 } });
t.teardown(() => gateway.close());

/** What a second client sees that gets the connection that was let go last, if any was. */
async function seenByAnother(through: TestGateway, database: string, statement: string): Promise<unknown> {
  const first = await through.client({ database });
  const second = await through.client({ database });
  try {
    await first.query(statement).catch(() => {});
    const { rows } = await second.query(`
      select current_setting('work_mem') as work_mem, nullif(current_setting('my.hidden', true), '') as hidden,
        current_setting('search_path') as path, current_user::text as role,
        to_regclass('pg_temp.secret') is not null as temp,
        (select count(*)::int from pg_listening_channels()) as channels,
        prepared_count() as plans,
        (select count(*)::int from pg_cursor() where is_holdable) as cursors,
        (select count(*)::int from pg_locks l join pg_stat_activity a using (pid)
         where locktype = 'advisory' and a.query ~ 'seen by another') as locks
      /* seen by another */`);
    return rows[0];
  } finally {
    await Promise.all([first.end(), second.end()]);
  }
}

const nothing = {
  work_mem: "4MB",
  hidden: null,
  path: '"$user", public',
  role: "postgres",
  temp: false,
  channels: 0,
  plans: 0,
  cursors: 0,
  locks: 0,
};
const statements = [
  ...[...kinds, "role"].map((kind) => `insert into hits values ('${kind}')`),
  "select 'setting' as what from peek",
  "select 1 @@@ 2",
  "insert into defaulted values (1)",
];
const inRollback = ["lock", "shared", "prepare"].map(
  (kind) => `begin; insert into hits values ('${kind}'); rollback`,
);

t.test("nothing that a client's transaction leaves behind is seen by another", async (t) => {
  for (const statement of [...statements, ...inRollback])
    t.same(await seenByAnother(gateway, "pooled", statement), nothing, statement);
});

t.test("control: without the extension each of these is", async (t) => {
  const stock = await startPostgres();
  t.teardown(() => stock.stop());
  await stock.sql(`create role other; ${schema}`);
  const bare = await startTestGateway({ host: "127.0.0.1", port: stock.port }, { pool: { size: 4 } });
  t.teardown(() => bare.close());
  for (const statement of [...statements, ...inRollback])
    t.not(
      JSON.stringify(await seenByAnother(bare, "postgres", statement)),
      JSON.stringify(nothing),
      statement,
    );
});

t.test("nor if its client leaves in the middle of that transaction", async (t) => {
  const one = await startTestGateway(server, { pool: { size: 1 } });
  t.teardown(() => one.close());
  for (const kind of ["lock", "shared", "prepare"]) {
    const first = await one.client({ database: "pooled" });
    await first.query("begin");
    await first.query(`insert into hits values ('${kind}')`);
    await first.end();
    t.same(await seenByAnother(one, "pooled", "select 1"), nothing, kind);
  }
});

t.test("nor is it if the request was sent behind another one", async (t) => {
  const first = await RawClient.login(gateway.port, { user: "postgres", database: "pooled" });
  first.send(wire.query("select 1"), wire.query("insert into hits values ('lock')"));
  await first.until(2);
  const second = await gateway.client({ database: "pooled" });
  t.equal((await second.query("select pg_try_advisory_lock(42) as got")).rows[0].got, false);
  first.close();
  await second.end();
});

const admin = new pg.Client({ ...server, user: "postgres", database: "postgres" });
await admin.connect();
t.teardown(() => admin.end());

const fuzzed = {
  settled: (left: number) => onlyLeft(gateway, admin, left),
  between: (random: Random) => scatter(gateway, random),
  direct: `${loaded.env.PGHOST}/.s.PGSQL.${loaded.env.PGPORT}`,
  pooled: gateway.port,
  clientCount: 4,
  stepsPerProgram: 60,
  startups: [{}, { application_name: "app" }, { options: "-c work_mem=8MB" }],
  statements: [
    ...statements,
    ...statements,
    ...inRollback,
    "select nullif(current_setting('my.hidden', true), '')",
    "show work_mem",
    "show search_path",
    "select current_user",
    "reset role",
    "reset all",
    "reset work_mem",
    "set work_mem = '5MB'",
    "set my.hidden = 'plain'",
    "select count(*) from secret",
    "drop table secret",
    "select pg_try_advisory_lock(42)",
    "select pg_advisory_unlock(42)",
    "select pg_advisory_unlock_shared(4, 3)",
    "select pg_advisory_unlock_all()",
    "select * from pg_listening_channels()",
    "unlisten *",
    "execute hidden_plan",
    "deallocate hidden_plan",
    "select name from pg_prepared_statements where name !~ '^__' order by 1",
    "fetch 1 from hidden_cursor",
    "close hidden_cursor",
    "discard all",
    "begin",
    "commit",
    "rollback",
    "savepoint a",
    "rollback to a",
    "select 1/0",
    "select count(*) from hits where what = 'nothing'",
    "update hits set what = what where what = 'nothing'",
  ],
  prepared: [
    "select $1::int + 1",
    "insert into hits values ('lock')",
    "insert into hits values ('temp')",
    "insert into hits values ('setting')",
    "insert into hits values ('prepare')",
    "select 5 @@@ $1::int",
    "show work_mem",
    "begin",
    "commit",
    "select pg_try_advisory_lock(42)",
    "select nullif(current_setting('my.hidden', true), '')",
  ],
};

t.test(
  "random programs see the same as on direct connections",
  { timeout: 60_000 + programs * 4_000 },
  async (t) => {
    for (let seed = firstSeed; seed < firstSeed + programs; seed++) {
      const difference = await runProgram(fuzzed, seed);
      t.equal(difference, undefined, `program ${seed}`);
      if (difference !== undefined) break;
    }
  },
);
