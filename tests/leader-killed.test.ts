// kill -9 of the leader's Postgres, alone and together with its sidecar, under load.
import { isAlive, poll } from "@quorate/common";
import t from "tap";
import { checkNotCopied, nextAck, type Scenario, scenario } from "./lib/scenario.ts";

/** A longer one isn't wrong on a busy machine, but its story is worth reading. */
const noteworthyGapMs = 2_000;

async function exLeaderFollows({ cluster }: Scenario, old: string): Promise<void> {
  await poll(
    async () => {
      const picture = await cluster.picture();
      const node = picture.nodes.find(({ id }) => id === old);
      return picture.leader !== null && picture.leader !== old && node?.role === "follower" && node.streaming;
    },
    { what: `${old} to follow the new leader`, timeoutMs: 30_000 },
  );
}

t.test("kill -9 of the leader's Postgres", async (test) => {
  const done = await scenario(test, async (under) => {
    const { cluster, append } = under;
    for (let round = 0; round < 2; round++) {
      const old = await cluster.leader();
      const { term } = await cluster.picture();
      const killedMs = performance.now();
      cluster.killPostgres(old);
      const next = await cluster.waitForLeader((id) => id !== old);
      await nextAck(append);
      test.comment(`${old} → ${next}: write gap ${Math.round(append.longestGapSince(killedMs).gapMs)} ms`);
      test.ok((await cluster.picture()).term > term, "a new term");
      await exLeaderFollows(under, old);
      await cluster.waitUntilWhole();
    }
  });
  checkNotCopied(test, done);
});

t.test("kill -9 of the leader's sidecar and Postgres together", async (test) => {
  const done = await scenario(test, async (under) => {
    const { cluster, append } = under;
    const old = await cluster.leader();
    const killedMs = performance.now();
    const sidecar = cluster.killSidecar(old);
    const postmaster = cluster.killPostgres(old);
    await poll(() => !isAlive(sidecar) && !isAlive(postmaster), {
      what: "both to be dead",
      timeoutMs: 5_000,
    });
    await cluster.waitForLeader((id) => id !== old);
    await nextAck(append);
    const { gapMs } = append.longestGapSince(killedMs);
    test.comment(`write gap ${Math.round(gapMs)} ms`);
    if (gapMs > noteworthyGapMs) test.comment(await cluster.story());
    await exLeaderFollows(under, old);
    test.not(cluster.sidecarPid(old), sidecar, "a new sidecar runs");
  });
  checkNotCopied(test, done);
});
