/**
 * All nodes lose their power at once. With fsync everything acknowledged is there afterwards; the control, without,
 * shows that the cut does take away what was not fsynced. Needs root, for file systems of its own.
 */
import { test } from "tap";
import { expectOk, makeCluster } from "../lib/cluster.ts";
import { majority } from "../lib/three-nodes.ts";

const skip = process.getuid?.() === 0 ? false : "power cuts need file systems of their own: run as root";

/** How many of the acknowledged rows are there after the cut; or that there's no server any more. */
async function afterCut(t: { teardown: (fn: () => Promise<void>) => void }, settings: readonly string[]) {
  const cluster = await makeCluster({ nodes: 3, disks: true, settings });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  await cluster.lead("n1", 2, majority, ["n2", "n3"]);
  const n1 = cluster.node("n1");
  await n1.sql("create table t (a int)");
  const client = await n1.connect();
  for (let i = 1; i <= 300; i++) await client.query("insert into t values ($1)", [i]);
  await Promise.all(cluster.servers.map((server) => server.cutPower()));
  for (const server of cluster.servers) await server.start();
  const positions = [];
  for (const server of cluster.servers) {
    await server.untilStatus("is consistent", ({ consistent }) => consistent);
    positions.push(expectOk(await server.ask({ cmd: "fence", term: 3 })).position);
  }
  const best = positions.reduce((a, b) => ((b?.lsn ?? "") > (a?.lsn ?? "") ? b : a));
  const leader = cluster.servers[positions.indexOf(best)] ?? n1;
  const others = cluster.servers.filter((each) => each !== leader).map(({ id }) => id);
  await cluster.lead(leader.id, 3, majority, others);
  return leader.value("select count(*) from t");
}

test("with fsync everything acknowledged survives", { skip }, async (t) => {
  t.equal(await afterCut(t, []), "300");
});

test("control: without fsync it does not", { skip }, async (t) => {
  const left = await afterCut(t, ["fsync = off"]).catch((error: unknown) => String(error));
  t.not(left, "300", `left: ${left}`);
});
