import t from "tap";
import { type Plan, pins } from "../src/text/plan.ts";
import { Plans } from "../src/text/plans.ts";

const plans = await Plans.load();
plans.addSafeFunctions(["count", "now", "nextval", "lastval", "set_config", "pg_advisory_lock", "setseed"]);
const plan = (sql: string): Plan => {
  const bytes = Buffer.from(sql);
  return plans.of(bytes, 0, bytes.length);
};

t.test("settings become effects that can be replayed", async (t) => {
  const effects = (sql: string) => plan(sql).effects;
  t.same(effects("set work_mem = '64MB'"), [{ kind: "set", name: "work_mem", value: "64MB" }]);
  t.same(effects('SET search_path TO a, "B", "$user"'), [
    { kind: "set", name: "search_path", value: 'a, "B", "$user"' },
  ]);
  t.same(effects("set time zone 'UTC'"), [{ kind: "set", name: "timezone", value: "UTC" }]);
  t.same(effects("set x.y = -3"), [{ kind: "set", name: "x.y", value: "-3" }]);
  t.same(effects("set x.y = 0"), [{ kind: "set", name: "x.y", value: "0" }]);
  t.same(effects("reset work_mem"), [{ kind: "set", name: "work_mem", value: null }]);
  t.same(effects("reset all"), [{ kind: "reset-all" }]);
  t.same(effects("select set_config('A.b', 'v', false)"), [{ kind: "set", name: "a.b", value: "v" }]);
  t.same(effects("begin; set a.b = 1; rollback to s; commit"), [
    { kind: "begin" },
    { kind: "set", name: "a.b", value: "1" },
    { kind: "rollback-to", name: "s" },
    { kind: "commit" },
  ]);
  t.equal(effects("set local work_mem = '64MB'"), null);
  t.equal(effects("select set_config('a.b', 'v', true)"), null);
  t.equal(plan("select set_config('a.b', 'v', true)").probe, false);
});

t.test("what can't be told from the text is probed", async (t) => {
  for (const sql of [
    "select set_config('a.b', v, false) from t",
    "set time zone interval '1' hour to minute",
    "set default_text_search_config = mine",
    "select set_config('default_text_search_config', 'mine', false)",
    "set role x",
    "set session characteristics as transaction isolation level serializable",
    "do $$ begin end $$",
    "call p()",
    "select f()",
    "create temp table t (a int)",
    "create table pg_temp.t (a int)",
    "select 1 as a into temp t",
    "declare c cursor with hold for select 1",
    "listen x",
    "select pg_advisory_lock(1)",
    "drop table t",
    "this is no statement",
  ]) {
    t.equal(plan(sql).probe, true, sql);
    t.equal(plan(sql).read, false, sql);
  }
  for (const sql of [
    "begin",
    "select 1 as count",
    "declare c cursor for select 1",
    "copy t from stdin",
    "show all",
  ]) {
    t.equal(plan(sql).probe, false, sql);
  }
});

t.test("pins and prepared statements by name", async (t) => {
  t.equal(plan("select lastval()").pins, pins.sequence);
  t.equal(plan("select setseed(0.5)").pins, pins.seed);
  t.equal(plan("load 'x'").pins, pins.load);
  for (const sql of [
    "set temp_buffers = 100",
    "set local temp_buffers = 100",
    "select set_config('temp_buffers', '100', true)",
  ])
    t.equal(plan(sql).pins, pins.buffers, sql);
  t.equal(plan("reset temp_buffers").pins, 0);
  for (const sql of ["prepare a as select 1", "execute a", "deallocate a", "explain execute a"]) {
    t.equal(plan(sql).sqlPrepare, true, sql);
  }
  t.same(plan("deallocate all").effects, [{ kind: "deallocate-all" }]);
  t.equal(plan("deallocate all").sqlPrepare, false);
});

t.test("the second look at a text costs no parse", async (t) => {
  plan("set a.c = 5");
  const before = plans.parses;
  plan("set a.c = 5");
  t.equal(plans.parses, before);
});
