// Planned changes of a running cluster, under load, through the CLI: nodes that come and go, other zones, another policy,
// other settings, restarts, another release of Postgres. Nothing is lost, each is finished when the verb returns, and a
// client of the gateway sees no error.
// QUORATE_EVERY_STEP=1 (npm run interrupted) moves every zone; without it one is moved.
import { execFile } from "node:child_process";
import { mkdtempSync, readlinkSync, rmSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { sendSignal } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { livePid } from "@quorate/orchestrator/cluster/processes.ts";
import t, { type Test } from "tap";
import { AppendClient } from "./lib/append-client.ts";
import { done, quorate, type TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";
import { nextAck, type Scenario, scenario } from "./lib/scenario.ts";

const runFile = promisify(execFile);
const everyZone = process.env["QUORATE_EVERY_STEP"] !== undefined;

/** Meanwhile no orchestrator lives for long; the supervisor starts each again. Returns how many died. */
async function killingOrchestrators(cluster: TestCluster, work: Promise<unknown>): Promise<number> {
  let killed = 0;
  const timer = setInterval(() => {
    for (const { id } of cluster.open.file.orchestrators) {
      const pid = livePid(paths.orchestratorPid(cluster.dir, id), paths.orchestratorConfig(cluster.dir, id));
      if (pid !== undefined && sendSignal(pid, "SIGKILL")) killed += 1;
    }
  }, 700);
  try {
    await work;
  } finally {
    clearInterval(timer);
  }
  return killed;
}

/** The same programs elsewhere, as another release would be. */
async function otherRelease(test: Test, binDir: string): Promise<string> {
  const prefix = path.dirname(binDir);
  const parent = mkdtempSync(`${prefix}.test-`);
  test.teardown(() => rmSync(parent, { recursive: true, force: true }));
  await runFile("chmod", ["755", parent]);
  const copy = path.join(parent, "postgresql");
  await runFile("cp", ["-al", prefix, copy]);
  return path.join(copy, "bin");
}

/** A client that writes through the gateway all the while and must not see an error; `end` checks that. */
async function throughGateway(test: Test, cluster: TestCluster): Promise<{ end: () => Promise<void> }> {
  const url = (await done(test, cluster, "url")).trim();
  await withClient(url, (client) => client.query("create table through_gateway (id bigint primary key)"));
  const append = new AppendClient(() => [url], { table: "through_gateway", pauseMs: 5 });
  append.start();
  test.teardown(() => append.stop());
  await nextAck(append);
  const sinceMs = performance.now();
  return {
    end: async () => {
      await nextAck(append);
      await append.stop();
      test.same([...append.errors], [], "the gateway's client saw no error");
      const pauseMs = Math.round(append.longestGapSince(sinceMs).gapMs);
      test.comment(`${append.acks.length} rows through the gateway, longest pause ${pauseMs} ms`);
    },
  };
}

async function cohort(cluster: TestCluster): Promise<{ cohort: readonly string[]; policy: string } | null> {
  return (await cluster.picture()).ruleset;
}

t.test("a node is added, the leader removed, an observer comes and goes", async (test) => {
  const change = async ({ cluster, append }: Scenario): Promise<void> => {
    const client = await throughGateway(test, cluster);
    const dry = await done(test, cluster, "node", "add", "--dry-run");
    test.match(dry, /1\. point n4 at .*\n2\. write ruleset 3 .*\n.*Nothing was changed/s);
    test.same(cluster.ids, ["n1", "n2", "n3"]);

    const added = await killingOrchestrators(cluster, done(test, cluster, "node", "add", "--zone", "d"));
    test.comment(`${added} orchestrators were killed meanwhile`);
    cluster.reopen();
    test.same(cluster.ids, ["n1", "n2", "n3", "n4"]);
    test.same((await cohort(cluster))?.cohort, ["n1", "n2", "n3", "n4"]);
    await nextAck(append);

    const leader = await cluster.leader();
    await done(test, cluster, "node", "remove", leader, "--purge");
    cluster.reopen();
    test.notOk(cluster.ids.includes(leader), "the leader handed over and is gone");
    await nextAck(append);
    if (everyZone) {
      for (const [old, zone] of cluster.ids.filter((id) => id !== "n4").map((id, i) => [id, "ef"[i] ?? ""])) {
        await done(test, cluster, "node", "add", "--zone", zone ?? "");
        await done(test, cluster, "node", "remove", old ?? "", "--purge");
        cluster.reopen();
        await nextAck(append);
      }
      const zones = cluster.open.file.nodes.map(({ zone }) => zone);
      test.same([...zones].sort(), ["d", "e", "f"], "the whole cluster has moved");
    }

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
    await client.end();
  };
  await scenario(test, change, { gateway: true });
});

t.test("policy, settings and restarts of a running cluster", async (test) => {
  const change = async ({ cluster, append }: Scenario): Promise<void> => {
    const client = await throughGateway(test, cluster);
    const { term } = await cluster.picture();
    await done(test, cluster, "policy", "set", "any-n:n=2");
    test.equal((await cohort(cluster))?.policy, "any-n");
    test.equal((await cluster.picture()).term, term, "without a leader change");
    await done(test, cluster, "policy", "set", "majority");

    const set = done(test, cluster, "cluster", "set", "--value", "work_mem=7MB", "--json");
    const died = await killingOrchestrators(cluster, set);
    test.ok(died > 0, `${died} orchestrators were killed meanwhile`);
    const { steps, ...rest } = JSON.parse(await set);
    test.same(rest, { done: true });
    test.ok(steps.length >= 4, "JSON tells the steps");
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

    const before = (await cluster.picture()).term;
    const binDir = await otherRelease(test, cluster.bin);
    const nothing = await quorate("cluster", "upgrade", "--bin-dir", cluster.dir, "--dir", cluster.dir);
    test.not(nothing.code, 0);
    test.match(nothing.stderr, /there is no postgres in it/);
    await done(test, cluster, "cluster", "upgrade", "--bin-dir", binDir);
    for (const id of cluster.ids)
      test.equal(
        path.dirname(readlinkSync(`/proc/${cluster.postmasterPid(id)}/exe`)),
        binDir,
        `${id} runs the other release`,
      );
    test.ok((await cluster.picture()).term > before, "one after the other, the leader handed over");
    await done(test, cluster, "cluster", "upgrade", "--bin-dir", cluster.bin);
    await nextAck(append);

    const plan = JSON.parse(await done(test, cluster, "cluster", "restart", "--dry-run", "--json"));
    test.equal(plan.steps.length, 4, "three restarts and a handover");
    await client.end();
  };
  await scenario(test, change, { gateway: true });
});
