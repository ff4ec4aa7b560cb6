// Planned changes of a running cluster, under load, through the CLI: nodes that come and go, another policy, other
// settings, restarts. Nothing is lost, and each is finished when the verb returns.
import t, { type Test } from "tap";
import { quorate, type TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";
import { nextAck, scenario } from "./lib/scenario.ts";

async function done(test: Test, cluster: TestCluster, ...args: string[]): Promise<string> {
  const run = await quorate(...args, "--dir", cluster.dir);
  test.equal(run.code, 0, `quorate ${args.join(" ")}\n${run.stdout}${run.stderr}`);
  return run.stdout;
}

async function cohort(cluster: TestCluster): Promise<{ cohort: readonly string[]; policy: string } | null> {
  return (await cluster.picture()).ruleset;
}

t.test("a node is added, the leader removed, an observer comes and goes", async (test) => {
  await scenario(test, async ({ cluster, append }) => {
    const dry = await done(test, cluster, "node", "add", "--dry-run");
    test.match(dry, /1\. point n4 at .*\n2\. write ruleset 3 .*\n.*Nothing was changed/s);
    test.same(cluster.ids, ["n1", "n2", "n3"]);

    await done(test, cluster, "node", "add", "--zone", "b");
    cluster.reopen();
    test.same(cluster.ids, ["n1", "n2", "n3", "n4"]);
    test.same((await cohort(cluster))?.cohort, ["n1", "n2", "n3", "n4"]);
    await nextAck(append);

    const leader = await cluster.leader();
    await done(test, cluster, "node", "remove", leader, "--purge");
    cluster.reopen();
    test.notOk(cluster.ids.includes(leader), "the leader handed over and is gone");
    await nextAck(append);

    await done(test, cluster, "node", "add", "--observer", "--id", "watcher");
    cluster.reopen();
    test.notOk((await cohort(cluster))?.cohort.includes("watcher"), "an observer is never in the cohort");
    test.equal((await cluster.pictureOf("watcher")).streaming, true);
    await done(test, cluster, "node", "remove", "watcher", "--purge");

    cluster.reopen();

    const follower = (await cluster.picture()).nodes.find(({ role }) => role === "follower")?.id ?? "";
    test.match(
      await done(test, cluster, "node", "replace", follower, "--dry-run"),
      /copied from the leader, and join again/,
    );

    const refused = await quorate("node", "add", "--id", "N!", "--dir", cluster.dir);
    test.not(refused.code, 0);
    test.match(refused.stderr, /no node id/);
  });
});

t.test("policy, settings and restarts of a running cluster", async (test) => {
  await scenario(test, async ({ cluster, append }) => {
    const { term } = await cluster.picture();
    await done(test, cluster, "policy", "set", "any-n:n=2");
    test.equal((await cohort(cluster))?.policy, "any-n");
    test.equal((await cluster.picture()).term, term, "without a leader change");
    await done(test, cluster, "policy", "set", "majority");

    await done(test, cluster, "cluster", "set", "--value", "work_mem=7MB");
    for (const id of cluster.ids)
      await withClient(cluster.superuser(id), async (client) => {
        const { rows } = await client.query("show work_mem");
        test.same(rows, [{ work_mem: "7MB" }], `${id} has it`);
      });
    test.ok((await cluster.picture()).term > term, "the leader handed over");
    await nextAck(append);

    const unsafe = await quorate("cluster", "set", "--value", "fsync=off", "--dir", cluster.dir);
    test.not(unsafe.code, 0);
    test.match(unsafe.stderr, /safety/);
    const lower = await quorate("cluster", "set", "--value", "max_connections=10", "--dir", cluster.dir);
    test.match(lower.stderr, /only be raised/);

    const plan = JSON.parse(await done(test, cluster, "cluster", "restart", "--dry-run", "--json"));
    test.equal(plan.steps.length, 4, "three restarts and a handover");
  });
});
