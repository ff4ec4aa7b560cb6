// kill -9 of a sidecar alone: Postgres goes on, the next sidecar adopts it, nobody else notices.
import { poll } from "@quorate/common";
import t from "tap";
import { checkNotCopied, nextAck, scenario } from "./lib/scenario.ts";

t.test("kill -9 of each sidecar, the leader's first", async (test) => {
  const done = await scenario(test, async ({ cluster, append }) => {
    const before = await cluster.picture();
    const leader = await cluster.leader();
    for (const id of [leader, ...cluster.ids.filter((each) => each !== leader)]) {
      const postmaster = cluster.postmasterPid(id);
      const sidecar = cluster.killSidecar(id);
      await nextAck(append);
      await poll(
        async () => {
          const node = await cluster.pictureOf(id);
          return node.problem === null && node.postgres === "running" && cluster.sidecarPid(id) !== sidecar;
        },
        { what: `a new sidecar to adopt Postgres of ${id}`, timeoutMs: 20_000 },
      );
      test.equal(cluster.postmasterPid(id), postmaster, `Postgres of ${id} is the same process`);
      test.equal((await cluster.pictureOf(id)).pid, postmaster);
    }
    const after = await cluster.waitUntilWhole();
    test.equal(after.leader, before.leader, "the leader stayed");
    test.equal(after.term, before.term, "the term stayed");
  });
  checkNotCopied(test, done);
});
