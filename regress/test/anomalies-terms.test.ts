/** Old leaders, late orders, two coordinators: with the control on stock where stock has something like it. */
import { test } from "tap";
import { begun, kinds, patienceMs, showsRows, trio } from "../lib/anomaly.ts";
import { type Cluster, expectOk, makeCluster, type Server } from "../lib/cluster.ts";
import { promote, repoint, untilSql } from "../lib/stock.ts";
import { freezeReceiver } from "../lib/three-nodes.ts";

const anyOther = (leader: string) => `2(${leader},1(${["n1", "n2", "n3"].filter((id) => id !== leader)}))`;

/** Before the deadline that an acknowledgement would need by far. */
const within = <T>(promise: Promise<T>, otherwise: T, ms: number): Promise<T> =>
  Promise.race([promise, new Promise<T>((resolve) => setTimeout(() => resolve(otherwise), ms))]);

for (const kind of kinds) {
  test(`late ack: a frozen follower thaws after another leader began: ${kind}`, async (t) => {
    const all = await trio(t, kind);
    const { n1, n2, n3, cluster } = all;
    const thaw2 = freezeReceiver(n2);
    const thaw3 = freezeReceiver(n3);
    const { outcome } = await begun(n1, "insert into t values (1)");
    if (kind === "stock") {
      await n3.kill9(); // what is in its socket is gone with it
      await n3.configure("primary_conninfo = ''");
      await n3.launch();
      await untilSql(n3);
      await promote(n3); // nobody must be asked first
      thaw2();
    } else {
      const [two, three] = [n2, n3].map((each) => each.ask({ cmd: "fence", term: 3 }));
      await n2.untilStatus("is fenced", ({ fenceTerm }) => fenceTerm === 3);
      await n3.untilStatus("is fenced", ({ fenceTerm }) => fenceTerm === 3);
      thaw2();
      thaw3();
      expectOk((await two) ?? { id: 0, ok: false });
      expectOk((await three) ?? { id: 0, ok: false });
      await cluster.lead("n3", 3, anyOther("n3"), ["n2"]);
    }
    const acknowledged = (await within(outcome, "waits", patienceMs(kind, 1500))) === "acknowledged";
    const there = await showsRows(n3);
    t.equal(
      acknowledged && !there,
      kind === "stock",
      "acknowledged by the old leader, unknown to the new one",
    );
  });

  test(`an order to follow the old leader arrives late: ${kind}`, async (t) => {
    const { n1, n2, n3, cluster } = await trio(t, kind);
    if (kind === "stock") {
      for (const each of [n2, n3]) await repoint(each, undefined);
      await n1.untilValue("select count(*) from pg_stat_replication", "0");
      await promote(n3);
    } else {
      for (const each of [n2, n3]) expectOk(await each.ask({ cmd: "fence", term: 3 }));
      await cluster.lead("n3", 3, anyOther("n3"), ["n2"]);
    }
    const { outcome } = await begun(n1, "insert into t values (1)");
    if (kind === "stock") await repoint(n2, n1);
    else {
      const conninfo = n1.conninfoFor("n2");
      t.match(await n2.ask({ cmd: "follow", term: 2, leader: "n1", conninfo }), { code: "stale_term" });
    }
    const acknowledged = (await within(outcome, "waits", patienceMs(kind, 1500))) === "acknowledged";
    t.equal(acknowledged && !(await showsRows(n3)), kind === "stock", "acknowledged, and lost");
  });

  test(`two coordinators each make a leader of the same term: ${kind}`, async (t) => {
    const { n1, n2, n3 } = await trio(t, kind);
    await n1.kill9();
    if (kind === "stock") {
      await Promise.all([promote(n2), promote(n3)]);
      const timeline = "select timeline_id::text from pg_control_checkpoint()";
      for (const each of [n2, n3]) await each.sql("checkpoint").catch(() => undefined);
      t.equal(await n2.value(timeline), "2");
      t.equal(await n3.value(timeline), "2", "both write timeline 2");
      return;
    }
    for (const each of [n2, n3]) expectOk(await each.ask({ cmd: "fence", term: 3 }));
    const ruleset = { version: 3, text: "{}" };
    expectOk(await n2.ask({ cmd: "elect", term: 3, rule: anyOther("n2"), ruleset }));
    expectOk(await n3.ask({ cmd: "follow", term: 3, leader: "n2", conninfo: n2.conninfoFor("n3") }));
    const second = await n3.ask({ cmd: "elect", term: 3, rule: anyOther("n3"), ruleset });
    t.match(second, { ok: false, code: "wrong_state" }, "who follows in a term isn't elected in it");
    if (second.ok) return;
    await n2.untilStatus("leads", ({ state }) => state === "leader");
    t.match(await n3.status(), { state: "follower", leader: "n2" });
  });
}

/** n1 leads term 2 and has, with n2, a row that the others lack; then n5 began term 3 and died alone with it. */
async function figureEight(t: { teardown: (fn: () => Promise<void>) => void }) {
  const cluster = await makeCluster({ nodes: 5 });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  const [n1, n2, n3, n4, n5] = cluster.servers as [Server, Server, Server, Server, Server];
  const rule = "3(n1,n2,n3,n4,n5)";
  const ruleset = { version: 9, text: "{}" };
  await cluster.lead("n1", 2, rule, ["n2", "n3", "n4", "n5"]);
  await n1.sql("create table t (a int)");
  for (const each of [n2, n3, n4, n5]) await each.untilValue("select count(*) from t", "0");
  for (const each of [n3, n4, n5]) expectOk(await each.ask({ cmd: "fence", term: 3 }));
  await begun(n1, "insert into t values (1)");
  const { flushedLsn } = await n1.status();
  await n2.untilValue(`select (pg_last_wal_receive_lsn() >= '${flushedLsn}')::text`, "true");
  expectOk(await n5.ask({ cmd: "elect", term: 3, rule, ruleset }));
  await n5.kill9();
  await n1.kill9();
  await n1.start();
  await n1.untilStatus("is consistent", ({ consistent }) => consistent);
  // term 4: n1 again, with n2 and n3
  const positions = [];
  for (const each of [n1, n2, n3])
    positions.push(expectOk(await each.ask({ cmd: "fence", term: 4 })).position);
  const [first] = positions;
  const nobodySees = async (what: string) => {
    for (const each of cluster.servers.filter((server) => server.isRunning()))
      if (await showsRows(each)) throw new Error(`${each.id} shows the row ${what}`);
  };
  await nobodySees("before term 4");
  return { cluster, n1, n2, n3, n4, n5, rule, ruleset, first, nobodySees };
}

async function finish(cluster: Cluster, leader: Server, term: number, rule: string, others: Server[]) {
  await cluster.lead(
    leader.id,
    term,
    rule,
    others.filter((each) => each.isRunning()).map(({ id }) => id),
  );
  for (const each of others) {
    if (each.isRunning()) continue;
    await each.start();
    await cluster.follow(each.id, leader.id, term);
  }
}

test("figure 8: an old term's row on a majority isn't committed by that, and may be overwritten", async (t) => {
  const { cluster, n1, n2, n3, n4, n5, rule, ruleset, first, nobodySees } = await figureEight(t);
  const conninfo = n1.conninfoFor("n3");
  expectOk(await n3.ask({ cmd: "fetch", term: 4, from: "n1", conninfo, target: first }));
  t.match(expectOk(await n3.ask({ cmd: "fence", term: 4 })), { position: first }, "three of five have it");
  const elected = expectOk(await n1.ask({ cmd: "elect", term: 4, rule, ruleset }));
  t.match(elected.position, { term: 4 });
  await nobodySees("though a majority has it");
  t.match(await n1.status(), { state: "elected" });
  await n1.kill9();

  await n5.start();
  await n5.untilStatus("is consistent", ({ consistent }) => consistent);
  const last = [];
  for (const each of [n3, n4, n5])
    last.push(expectOk(await each.ask({ cmd: "fence", term: 5 })).position?.term);
  t.same(last, [2, 2, 3], "the log of n5 is the newest");
  await finish(cluster, n5, 5, rule, [n1, n2, n3, n4]);
  await cluster.follow("n2", "n5", 5);
  await n5.sql("insert into t values (2)");
  for (const each of cluster.servers) {
    await each.untilValue("select string_agg(a::text, ',') from t", "2");
  }
});

test("figure 8: once the new term's record is on a majority, the old row is committed for ever", async (t) => {
  const { cluster, n1, n2, n3, n4, n5, rule } = await figureEight(t);
  await cluster.lead("n1", 4, rule, ["n2", "n3"]);
  await n1.untilValue("select count(*) from t", "1");
  await n1.kill9();
  await n5.start();
  await n5.untilStatus("is consistent", ({ consistent }) => consistent);
  const positions = new Map<Server, { term: number; lsn: string } | undefined>();
  for (const each of [n3, n4, n5])
    positions.set(each, expectOk(await each.ask({ cmd: "fence", term: 5 })).position);
  t.match(positions.get(n3), { term: 4 }, "the log of n3 is the newest");
  t.match(positions.get(n5), { term: 3 });
  const conninfo = n3.conninfoFor("n5");
  const target = positions.get(n3);
  expectOk(await n5.ask({ cmd: "fetch", term: 5, from: "n3", conninfo, target }));
  await finish(cluster, n5, 5, rule, [n1, n2, n3, n4]);
  await cluster.follow("n2", "n5", 5);
  await n5.sql("insert into t values (2)");
  for (const each of cluster.servers)
    await each.untilValue("select string_agg(a::text, ',' order by a) from t", "1,2");
});
