import t from "tap";
import { quickLook } from "../src/text/lexer.ts";
import { WordSet } from "../src/text/words.ts";

const safe = new WordSet(["count", "now", "lower", "generate_series"]);
const look = (sql: string) => {
  const bytes = Buffer.from(sql);
  return quickLook(bytes, 0, bytes.length, safe);
};

t.test("plain statements are told without a parser", async (t) => {
  for (const sql of [
    "select 1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 42;",
    "select count(*), lower(x) from t where y in (1,2) and z = 'it''s' -- comment",
    "select /* a /* nested */ comment */ now()",
    'select pg_catalog.count(*) from "T"."u"',
    "values (1, 2)",
  ]) {
    t.equal(look(sql), "plain-read", sql);
  }
  for (const sql of [
    "insert into t (a, b) values ($1, $2)",
    "insert into s.t values (now())",
    "update t set a = 1 where b = $1",
    "delete from t",
    "select * from t for update",
  ]) {
    t.equal(look(sql), "plain-write", sql);
  }
});

t.test("whatever may touch the session goes to the parser", async (t) => {
  for (const sql of [
    "",
    "set x = 1",
    "begin",
    "select 1; set x = 2",
    "select set_config('a', 'b', false)",
    "select SET_CONFIG('a', 'b', false)",
    "select \"set_config\"('a', 'b', false)",
    "select pg_advisory_lock(1)",
    "select my_function(1)",
    "select public.count(1)",
    "select my_function/* x */(1)",
    "select my_function -- x\n (1)",
    "select * into temp x from y",
    "select * from pg_temp.x",
    "select E'\\'' || my_function('')",
    "select 'a\\' || my_function('",
    "select U&'\\0041'",
    "select $$a$$",
    "with x as (select 1) select * from x",
    "select lastval()",
    "select 'open",
    "select * from pg_prepared_statements",
    "insert into t select 1 into x",
  ]) {
    t.equal(look(sql), "parse", sql);
  }
});
