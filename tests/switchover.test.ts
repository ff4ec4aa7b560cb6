// A planned change of the leader, and the stop and start of the whole cluster.
import t from "tap";
import { quorate } from "./lib/cluster.ts";
import { checkNotCopied, nextAck, scenario } from "./lib/scenario.ts";

t.test("switchover --to each node in turn", async (test) => {
  const done = await scenario(test, async ({ cluster, append }) => {
    const first = await cluster.leader();
    const others = cluster.ids.filter((id) => id !== first);
    for (const to of [...others, first]) {
      const { term } = await cluster.picture();
      const run = await quorate("switchover", "--to", to, "--dir", cluster.dir);
      test.equal(run.code, 0, `${run.stdout}${run.stderr}`);
      test.equal(await cluster.leader(), to);
      test.ok((await cluster.picture()).term > term, "a new term");
      await nextAck(append);
      await cluster.waitUntilWhole();
    }
    // Each is in the trail of every node, so that it survives the loss of all but one.
    const trail = await quorate("events", "--json", "--dir", cluster.dir);
    const recorded = JSON.parse(trail.stdout) as {
      id: string;
      row: string;
      outcome: string;
      inputs: unknown;
    }[];
    test.match(
      recorded.filter(({ row }) => row === "switchover").map(({ outcome }) => outcome),
      [...others, first].map((to) => `${to} leads`),
    );
    const why = await quorate("events", recorded[0]?.id ?? "", "--dir", cluster.dir);
    test.match(why.stdout, /decided from.*n1: connected; running/s);
    const again = await quorate("switchover", "--to", first, "--dir", cluster.dir);
    test.not(again.code, 0, "to the present leader is refused");
    test.match(again.stderr, /leads already/);
  });
  checkNotCopied(test, done);
});

t.test("stop and start of the whole cluster", async (test) => {
  const done = await scenario(test, async ({ cluster, append }) => {
    await cluster.down();
    const stopped = await quorate("status", "--json", "--dir", cluster.dir);
    test.equal(stopped.code, 3, "nothing runs");
    await cluster.up();
    await cluster.waitUntilWhole();
    await nextAck(append);
  });
  checkNotCopied(test, done);
});
