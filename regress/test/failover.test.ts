/** One leader after another, by hand: what was acknowledged stays, what missed the quorum goes, rules are never broken. */
import { test } from "tap";
import { expectOk, type Server } from "../lib/cluster.ts";
import { freezeReceiver, majority, threeNodes, untilWaiting } from "../lib/three-nodes.ts";

test("failover: acknowledged rows stay, an ex-leader drops its tail and follows, terms are sparse", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  await n1.sql("insert into t select generate_series(1, 100)");
  await n1.sql("begin; insert into t values (101); prepare transaction 'p'");
  await n1.sql("create table u as select generate_series(1, 1000) as b");
  for (const each of [n2, n3]) freezeReceiver(each);

  const doomed = [
    "insert into t values (-1)",
    "create table doomed as select 1",
    "checkpoint",
    "create index on u (b)",
  ];
  for (const statement of doomed) {
    const client = await n1.connect();
    client.query(statement).catch(() => undefined);
  }
  await untilWaiting(n1, 3);
  await n1.kill9();
  for (const each of [n2, n3]) {
    await each.kill9();
    await each.start();
  }
  await cluster.lead("n2", 9, majority, ["n3"]);
  t.equal(await n2.value("select count(*) from t"), "100");
  await n2.sql("commit prepared 'p'");
  await n1.start();
  await cluster.follow("n1", "n2", 9);
  await n1.untilValue("select count(*) from t", "101");
  await n3.untilValue("select count(*) from t", "101");
  for (const each of [n1, n2, n3]) {
    t.equal(await each.value("select to_regclass('doomed')"), null, `${each.id}: the tail is gone`);
    t.equal(await each.value("select sum(a) from t"), String((101 * 102) / 2));
  }

  // and back again, with everything that n1 has
  const { position } = expectOk(await n1.ask({ cmd: "fence", term: 12 }));
  t.match(position, { term: 9 });
  await n2.stop("immediate");
  await cluster.lead("n1", 12, majority, ["n3"]);
  await n1.sql("insert into t values (102)");
  await n2.start();
  await cluster.follow("n2", "n1", 12);
  for (const each of [n1, n2, n3]) await each.untilValue("select sum(a) from t", String((102 * 103) / 2));
});

test("transactions of a dead leader don't seem to run on under the next one", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  // In recovery the list of running transactions isn't shown, but the oldest one is.
  const running = "select (pg_snapshot_xmin(s) < pg_snapshot_xmax(s))::text from pg_current_snapshot() s";
  const open = await n1.connect();
  await open.query("begin");
  await open.query("insert into t values (1)");
  await n1.sql("insert into t values (2)");
  await n3.untilValue("select count(*) from t", "1");
  t.equal(await n3.value(running), "true", "it runs, as far as n3 knows");
  await n1.kill9();
  await cluster.lead("n2", 3, majority, ["n3"]);
  await n3.untilStatus("applied the term's ruleset", ({ ruleset }) => ruleset?.version === 3);
  t.equal(await n3.value(running), "false");
  t.equal(await n2.value(running), "false");
});

test("a candidate that lacks the tail fetches it before it is elected", async (t) => {
  const cluster = await threeNodes(t, "1(n1,n2,n3)");
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const thaw2 = freezeReceiver(n2);
  await n1.sql("insert into t select generate_series(1, 10000)");
  await n3.untilValue("select count(*) from t", "10000");
  await n1.kill9();
  const fenced2 = n2.ask({ cmd: "fence", term: 3 });
  thaw2();
  const short = expectOk(await fenced2).position;
  const long = expectOk(await n3.ask({ cmd: "fence", term: 3 })).position;
  t.not(short?.lsn, long?.lsn);
  const fetched = expectOk(
    await n2.ask({ cmd: "fetch", term: 3, from: "n3", conninfo: n3.conninfoFor("n2"), target: long }),
  );
  t.same(fetched.position, long);
  t.match(await n2.ask({ cmd: "fetch", term: 3, from: "n3", conninfo: n3.conninfoFor("n2"), target: long }), {
    ok: true,
  });
  await cluster.lead("n2", 3, majority, ["n3"]);
  await n2.untilValue("select count(*) from t", "10000");
  await n2.sql("insert into t values (1)");
});

test("change of rules: under the old AND the new ones until it is durable; a successor finds it in the tail", async (t) => {
  const cluster = await threeNodes(t, "3(n1,n2,n3)");
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const thaw3 = freezeReceiver(n3);
  const control = await n1.control();
  const change = control.request({ cmd: "ruleset", term: 2, version: 3, rule: "2(n1,n2)", text: "drei" });
  await n1.untilStatus("both rules hold", ({ joint }) => joint.length === 1);
  t.match(await n1.status(), { rule: "2(n1,n2)", joint: ["3(n1,n2,n3)"], ruleset: { version: 2 } });
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  t.match(await control.request({ cmd: "ruleset", term: 2, version: 4, rule: "n1", text: "" }), {
    code: "wrong_state",
  });
  thaw3();
  expectOk(await change);
  await insert;
  t.match(await n1.status(), { rule: "2(n1,n2)", joint: [], ruleset: { version: 3, text: "drei" } });

  freezeReceiver(n3);
  await n1.sql("insert into t values (2)");
  const thaw2 = freezeReceiver(n2);
  const lost = control.request({ cmd: "ruleset", term: 2, version: 5, rule: "1(n1,n2,n3)", text: "fünf" });
  await n1.untilStatus("both rules hold", ({ joint }) => joint.length === 1);
  t.match(await n1.ask({ cmd: "fence", term: 4 }), {
    ok: true,
    ruleset: { version: 3 },
    tailRulesets: [{ version: 5, text: "fünf" }],
  });
  t.match(await lost, { ok: false, code: "superseded" });
  thaw2();
  await n1.stop("immediate");
  await n1.start();
  t.match(
    await n1.ask({ cmd: "fence", term: 4 }),
    { ok: true, tailRulesets: [{ version: 5, text: "fünf" }] },
    "after a restart the scan of the tail finds it",
  );
});
