// Planned changes that somebody interrupts, under load. `npm test` takes some of the steps, QUORATE_EVERY_STEP=1 (npm run
// interrupted) all of them.
import t, { type Test } from "tap";
import type { AppendClient } from "./lib/append-client.ts";
import { done, type TestCluster } from "./lib/cluster.ts";
import { interruptEverywhere } from "./lib/interrupted.ts";
import { type Scenario, scenario } from "./lib/scenario.ts";

const all = process.env["QUORATE_EVERY_STEP"] !== undefined;
const only = (...steps: number[]): { steps?: readonly number[] } => (all ? {} : { steps });

async function members(cluster: TestCluster): Promise<readonly string[]> {
  return (await cluster.picture()).ruleset?.cohort ?? [];
}

async function removal(
  test: Test,
  cluster: TestCluster,
  append: AppendClient,
  reached: () => Promise<unknown>,
): Promise<void> {
  await done(test, cluster, "node", "add");
  await interruptEverywhere(test, {
    cluster,
    append,
    verb: ["node", "remove", "n4", "--purge"],
    reached,
    undo: () => done(test, cluster, "node", "add"),
  });
  await done(test, cluster, "node", "remove", "n4", "--purge");
}

async function nodesComeAndGo(test: Test, { cluster, append }: Scenario): Promise<void> {
  const original = ["n1", "n2", "n3"];
  const isOriginal = async (): Promise<void> => {
    test.same([...cluster.ids].sort(), original);
    test.same([...(await members(cluster))].sort(), original);
  };
  const hasFourth = async (): Promise<void> => {
    test.same([...cluster.ids].sort(), [...original, "n4"]);
    test.same([...(await members(cluster))].sort(), [...original, "n4"]);
  };
  await interruptEverywhere(test, {
    cluster,
    append,
    verb: ["node", "add"],
    ...only(3),
    reached: hasFourth,
    undo: () => done(test, cluster, "node", "remove", "n4", "--purge"),
  });
  // What is left of a removal is also what a replacement begins with.
  if (all) await removal(test, cluster, append, isOriginal);
  const [follower = ""] = (await members(cluster)).slice(-1);
  await interruptEverywhere(test, {
    cluster,
    append,
    verb: ["node", "replace", follower],
    ...only(6),
    reached: isOriginal,
    undo: async () => undefined,
  });
}

async function policyAndRestarts(test: Test, { cluster, append }: Scenario): Promise<void> {
  const policy = async (name: string): Promise<void> => {
    test.equal((await cluster.picture()).ruleset?.policy, name);
    test.equal(cluster.open.file.policy, name === "any-n" ? "any-n:n=2" : name);
  };
  await interruptEverywhere(test, {
    cluster,
    append,
    verb: ["policy", "set", "any-n:n=2"],
    ...only(2),
    reached: () => policy("any-n"),
    undo: () => done(test, cluster, "policy", "set", "majority"),
  });
  await interruptEverywhere(test, {
    cluster,
    append,
    verb: ["cluster", "restart"],
    ...only(3),
    reached: async () => void (await cluster.waitUntilWhole()),
    undo: async () => undefined,
  });
}

// One cluster for all, so that each begins where the one before has ended.
t.test("nodes that come, go and are replaced; another policy; restarts of all", async (test) => {
  await scenario(test, async (under) => {
    await nodesComeAndGo(test, under);
    await policyAndRestarts(test, under);
  });
});
