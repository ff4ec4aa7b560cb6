/**
 * Random programs of several clients, run on direct connections and through the gateway with fewer server connections
 * than clients: every answer must be the same, message by message. GATEWAY_FUZZ_PROGRAMS runs more of them,
 * GATEWAY_FUZZ_SEED begins elsewhere.
 */
import pg from "pg";
import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { onlyLeft, runProgram, scatter } from "./lib/programs.ts";
import type { Random } from "./lib/random.ts";

const programs = Number(process.env["GATEWAY_FUZZ_PROGRAMS"] ?? 40);
const firstSeed = Number(process.env["GATEWAY_FUZZ_SEED"] ?? 1);
const clientCount = 4;
const stepsPerProgram = 60;

const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const schema = `
create table items (id int primary key, name text);
insert into items select n, 'item ' || n from generate_series(1, 20) n;
create schema one; create schema two;
create table one.thing (v text); insert into one.thing values ('one');
create table two.thing (v text, w int); insert into two.thing values ('two', 2);
create function remember(x text) returns void language plpgsql as $$ begin perform set_config('my.memory', x, false); end $$;
create function work(x text) returns void language plpgsql set search_path = public as $$ begin perform set_config('work_mem', x, false); end $$;
create sequence counter;
create text search configuration one.mine (copy = english);
create text search configuration two.mine (copy = german);
`;
await postgres.sql("create database direct; \n create database pooled");
for (const database of ["direct", "pooled"]) {
  await postgres.sql(schema, database);
  await postgres.sql("create role other", "postgres").catch(() => {});
  await postgres.sql("grant all on all tables in schema public to other", database);
}
const gateway = await startTestGateway(
  { host: "127.0.0.1", port: postgres.port },
  { pool: { size: clientCount } },
);
t.teardown(() => gateway.close());

const statements = [
  "set work_mem = '1MB'",
  "set work_mem = '2MB'",
  "set local work_mem = '3MB'",
  "reset work_mem",
  "reset all",
  "show work_mem",
  "show search_path",
  "show timezone",
  "show application_name",
  "set timezone = 'Europe/Berlin'",
  "set datestyle = 'German'",
  "set datestyle to sql",
  "set datestyle to ymd",
  "set local datestyle to postgres",
  "show datestyle",
  "reset work_mem; set work_mem = '5MB'",
  "set default_text_search_config = mine",
  "show default_text_search_config",
  "set application_name = 'fuzz'",
  "set search_path = one",
  "set search_path = two, public",
  "set search_path to default",
  "set statement_timeout = '20s'",
  "set my.memory = 'plain'",
  "set session characteristics as transaction isolation level serializable",
  "show transaction_isolation",
  "select * from thing",
  "select now() is not null, '2020-02-01'::date",
  "select remember('deep')",
  "select work('9MB')",
  "do $$ begin perform set_config('my.memory', 'done', false); end $$",
  "select set_config('my.memory', 'direct', false)",
  "select set_config('my.memory', 'local', true)",
  "select nullif(current_setting('my.memory', true), '')",
  "select current_setting('work_mem'), current_user, session_user",
  "begin",
  "begin isolation level repeatable read",
  "commit",
  "rollback",
  "savepoint a",
  "rollback to a",
  "release a",
  "select 1/0",
  "select nothing from nowhere",
  "syntax error",
  "",
  "select 1; select 2",
  "set work_mem = '5MB'; select 1/0",
  "set work_mem = '6MB'; show work_mem",
  "begin; set work_mem = '7MB'; rollback; show work_mem",
  "create temp table scratch (a int)",
  "insert into scratch values (1)",
  "select count(*) from scratch",
  "drop table scratch",
  "create temp table brief (a int) on commit drop",
  "select * from brief",
  "prepare p as select 'prepared'",
  "execute p",
  "deallocate p",
  "deallocate all",
  "discard all",
  "discard temp",
  "select name, statement from pg_prepared_statements where name !~ '^__' order by 1",
  "declare c cursor with hold for select id from items order by id",
  "declare d cursor for select id from items order by id",
  "fetch 2 from c",
  "fetch 2 from d",
  "close c",
  "close all",
  "select pg_try_advisory_lock(7)",
  "select pg_advisory_unlock(7)",
  "select pg_advisory_unlock_all()",
  "select pg_try_advisory_xact_lock(8)",
  "listen news",
  "unlisten news",
  "unlisten *",
  "notify news, 'hello'",
  "select pg_listening_channels()",
  "set role other",
  "reset role",
  "set local role other",
  "select count(*) from items",
  "update items set name = name where id = 3",
  "insert into items values (1, 'again')",
  "copy (select id from items order by id limit 2) to stdout",
] as const;

const prepared = [
  "select $1::int + 1",
  "select * from thing",
  "select name from items where id = $1::int",
  "set work_mem = '4MB'",
  "show work_mem",
  "select '1.2.2003'::date, current_setting('datestyle')",
  "select 1/(1-$1::int)",
  "begin",
  "commit",
  "select remember('extended')",
  "create temp table scratch (a int)",
  "select id from items order by id limit 5",
] as const;

const startups = [
  {},
  { application_name: "app" },
  { options: "-c work_mem=8MB" },
  { timezone: "Asia/Tokyo", datestyle: "ymd" },
];

const admin = new pg.Client({
  host: "127.0.0.1",
  port: postgres.port,
  user: "postgres",
  database: "postgres",
});
await admin.connect();
t.teardown(() => admin.end());

const fuzzed = {
  settled: (left: number) => onlyLeft(gateway, admin, left),
  between: (random: Random) => scatter(gateway, random),
  direct: postgres.port,
  pooled: gateway.port,
  clientCount,
  stepsPerProgram,
  startups,
  statements,
  prepared,
};

t.setTimeout(60_000 + programs * 4_000);
t.test(
  "sessions through the gateway are like direct ones",
  { timeout: 60_000 + programs * 4_000 },
  async (t) => {
    for (let seed = firstSeed; seed < firstSeed + programs; seed++) {
      const difference = await runProgram(fuzzed, seed);
      t.equal(difference, undefined, `program ${seed}`);
      if (difference !== undefined) break;
    }
  },
);
