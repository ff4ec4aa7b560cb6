/** Proof of leadership under rules that change: what proved it once says nothing about later. */
import type pg from "pg";
import { test } from "tap";
import { expectOk, makeCluster } from "../lib/cluster.ts";
import { freezeReceiver, majority, threeNodes } from "../lib/three-nodes.ts";

const cannotRead = { code: "QR003" };

const read = (client: pg.Client): Promise<unknown> => client.query("select count(*) from t");

test("a leader that once met its rule alone needs proof when the rule has changed", async (t) => {
  const settings = ["quorate.lease = 100ms", "quorate.read_timeout = 1s"];
  const cluster = await threeNodes(t, "n1", settings);
  const n1 = cluster.node("n1");
  const leased = await n1.connect();
  const heartbeat = await n1.connect("-cquorate.read_proof=heartbeat");
  for (const client of [leased, heartbeat]) await read(client);

  const change = { cmd: "ruleset", term: 2, version: 3, rule: majority, text: "{}" };
  expectOk(await n1.ask(change));
  for (const client of [leased, heartbeat]) await read(client);

  const thaw = ["n2", "n3"].map((id) => freezeReceiver(cluster.node(id)));
  await t.rejects(read(heartbeat), cannotRead);
  await t.rejects(read(leased), cannotRead);
  for (const go of thaw) go();
  for (const client of [leased, heartbeat]) await read(client);
});

test("alone in its rule, with nobody but an observer, a leader has proof, and says so", async (t) => {
  const cluster = await makeCluster({ nodes: 2 });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  await cluster.lead("n1", 2, "n1");
  const conninfo = cluster.node("n1").conninfoFor("n2").replace("member", "observer");
  expectOk(await cluster.node("n2").ask({ cmd: "follow", term: 2, leader: "n1", conninfo }));
  await cluster.node("n2").untilStatus("has fresh contents", ({ stalenessMs }) => stalenessMs !== null);
  t.match(await cluster.node("n2").status(), { ruleset: { version: 2 } });
});
