// What names of prepared statements stand for after errors, in failed transactions, and when SQL's own PREPARE comes
// in: each case was once found by the fuzzer. The same messages go to a direct connection and through the gateway.
import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

const postgres = await startPostgres();
t.teardown(() => postgres.stop());
await postgres.sql(`
  create schema empty;
  create table public.things (a int);
  create function prepares() returns void language plpgsql as $$ begin execute 'prepare own as select 1'; end $$;
`);
const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { pool: { size: 2 } });
t.teardown(() => gateway.close());

const run = (name: string) => [wire.bind("", name), wire.execute("")];
const q = (sql: string) => [wire.query(sql)];
const sync = wire.sync();

/** Steps, each a list of messages that are sent together. */
const cases: Readonly<Record<string, readonly (readonly Buffer[])[]>> = {
  "an unnamed statement that is parsed behind a request that fails": [
    [...run(""), wire.parse("", "select 1"), sync, wire.parse("", "select 2"), sync],
    [...run(""), sync],
    [wire.parse("", "select 3"), ...run("none"), sync, wire.parse("", "syntax error"), sync],
    [wire.describe("S", ""), sync],
    [
      wire.parse("", "select 4"),
      sync,
      ...run("none"),
      wire.parse("", "select 5"),
      sync,
      wire.query("select 6"),
    ],
    [wire.describe("S", ""), sync],
  ],
  "an unnamed statement after the session's last PREPARE is gone": [
    q("prepare p as select 1"),
    [wire.parse("", "deallocate p"), ...run(""), sync],
    [...run(""), sync],
    [wire.describe("S", ""), sync],
  ],
  "what a function has prepared in the open transaction, when the session speaks of prepared statements": [
    [wire.parse("s", "select 's'"), sync],
    q("begin"),
    q("select prepares()"),
    q("select name from pg_prepared_statements where name !~ '^__' order by 1"),
    q("execute own"),
    q("deallocate own"),
    q("commit"),
    [...run("s"), sync],
  ],
  "a text that is parsed again in a failed transaction": [
    [wire.parse("s", "begin"), ...run("s"), sync],
    q("select 1/0"),
    [wire.parse("", "begin"), sync],
    [wire.parse("s", "begin"), sync],
    [wire.parse("other", "begin"), sync],
    [wire.describe("S", "s"), sync],
    [wire.parse("end", "rollback"), ...run("end"), sync],
    [wire.parse("again", "rollback"), sync],
    [...run("s"), sync],
    q("select 1/0"),
    [wire.parse("more", "rollback"), ...run("more"), sync],
    [...run("s"), sync, ...run("again"), sync],
  ],
  "what had to be tried in a failed transaction leaves nothing behind": [
    [wire.parse("s", "rollback"), sync, wire.parse("t", "rollback"), sync],
    q("begin"),
    q("select 1/0"),
    [wire.parse("u", "rollback"), ...run("u"), sync],
    q("begin"),
    q("select name from pg_prepared_statements order by 1"),
    q("commit"),
  ],
  "SQL's PREPARE where one of the session's statements can't be prepared at present": [
    [wire.parse("s", "select count(*) from things"), sync],
    [wire.parse("fine", "select 'fine'"), sync],
    q("set search_path = empty"),
    q("prepare p as select 1"),
    q("select name from pg_prepared_statements where name in ('fine', 'p') order by 1"),
    [...run("s"), sync],
    [wire.parse("s", "select 2"), sync],
    q("set search_path = public"),
    [...run("s"), sync],
    [...run("fine"), sync],
    q("execute p"),
    q("deallocate p"),
    [...run("s"), sync],
  ],
  "the same in a transaction, which goes on": [
    [wire.parse("s", "select count(*) from things"), sync],
    q("set search_path = empty"),
    q("begin"),
    q("prepare p as select 1"),
    q("execute p"),
    q("set local search_path = public"),
    [...run("s"), sync],
    q("commit"),
    q("deallocate all"),
    [...run("s"), sync],
  ],
};

for (const [what, steps] of Object.entries(cases)) {
  t.test(what, async (t) => {
    const parameters = { user: "postgres", database: "postgres" };
    const [direct, pooled] = [
      await RawClient.login(postgres.port, parameters),
      await RawClient.login(gateway.port, parameters),
    ];
    for (const [at, messages] of steps.entries()) {
      const ready = messages.filter((each) => "SQ".includes(String.fromCharCode(each[0] ?? 0))).length;
      const answer = async (client: RawClient) => {
        client.send(...messages);
        return readable(await client.until(ready));
      };
      t.same(await answer(pooled), await answer(direct), `step ${at}`);
    }
    direct.close();
    pooled.close();
  });
}
