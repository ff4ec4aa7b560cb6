/** The short form of `npm run loop`; with power cuts where the machine lets us. */
import { test } from "tap";
import { runLoop } from "../lib/failover-loop.ts";

const seed = Date.now() % 100_000;

test(`failover loop, 3 nodes, seed ${seed}`, async (t) => {
  const rounds = 5;
  const result = await runLoop({ rounds, seed, nodes: 3, rule: "majority" });
  for (const { round, fault, acknowledged, problems } of result.rounds)
    t.same(problems, [], `round ${round}: ${fault}, ${acknowledged} acknowledged rows`);
  t.equal(result.rounds.length, rounds);
  t.ok(result.known.seen.size > 0, "readers have seen rows");
});
