// What --dry-run of switchover and failover says.
import { nodeId } from "@quorate/consensus";
import { term } from "@quorate/consensus/types.ts";
import t from "tap";
import { type LeaderPlanInput, leaderPlan } from "../src/cli/leader-plan.ts";

const [n1, n2, n3] = [nodeId("n1"), nodeId("n2"), nodeId("n3")];
const plan = (change: Partial<LeaderPlanInput>): string[] =>
  leaderPlan({
    verb: "switchover",
    leader: { id: n1, term: term(5) },
    to: n2,
    others: [n1, n3],
    lacksBytes: 0n,
    ...change,
  }).map(({ kind, what }) => `${kind}: ${what}`);

t.test("a switchover in good order", (t) => {
  t.same(plan({}), [
    "quiesce: n1 holds new transactions and finishes those in flight",
    "catchUp: n2 has the whole log",
    "recruit: n2, n1, n3 promise a term above 5 and leave older ones",
    "elect: n2 begins a term above 5 and leads as soon as its quorum has it",
    "follow: n1, n3 follow n2; n1 restarts as a follower",
  ]);
  t.match(plan({ lacksBytes: 77n })[1], /the rest of the log, 77 bytes now/);
  t.end();
});

t.test("a failover asks nobody to finish anything", (t) => {
  t.match(plan({ verb: "failover" }), [/^recruit/, /^elect/, /^follow: n1, n3 follow n2; n1 restarts/]);
  t.equal(
    plan({ verb: "failover", others: [n3] }).at(-1),
    "follow: n3 follow n2",
    "the old leader is out of reach",
  );
  t.match(plan({ verb: "failover", leader: null }), [/the next term/, /begins the next term/, /follow/]);
  t.equal(plan({ verb: "failover", others: [] }).length, 2, "alone");
  t.end();
});
