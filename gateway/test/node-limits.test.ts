/** Shares of a node's connections in the memory that workers share, and when they are asked for anew. */
import t from "tap";
import { isDue, wishFor } from "../src/budget/leases.ts";
import { NodeLimits, sharedClockMs } from "../src/budget/node-limits.ts";

const soonMs = (): number => sharedClockMs() + 60_000;

function workers(count: number, unleased = 3): NodeLimits[] {
  const buffer = NodeLimits.bufferFor(count);
  const all = Array.from({ length: count }, (_, id) => new NodeLimits(buffer, id));
  (all[0] as NodeLimits).unleased = unleased;
  all[0]?.register(["n1", "n2"]);
  for (const each of all) each.slots = all[0]?.slots ?? {};
  return all;
}

t.test("workers together keep to a share", async (test) => {
  const [one, other] = workers(2) as [NodeLimits, NodeLimits];
  one.setShare("n1", 5, false, soonMs());
  const got = [one, other, one, other, one, other, one].map((each) => each.reserve("n1"));
  test.same(got, [true, true, true, true, true, false, false]);
  test.equal(one.open("n1"), 5);
  test.same([one.ownOpen("n1"), other.ownOpen("n1")], [3, 2]);
  test.equal(other.open("n2"), 0, "other nodes are other matters");
  other.closed("n1");
  test.ok(one.reserve("n1"));
  one.setWants("n1", 4);
  other.setWants("n1", 3);
  test.equal(one.wants("n1"), 7);
});

t.test(
  "a smaller share is divided among those who have too much; a worker that ends leaves nothing",
  async (test) => {
    const [one, other] = workers(2) as [NodeLimits, NodeLimits];
    one.setShare("n1", 9, false, soonMs());
    for (let each = 0; each < 6; each++) one.reserve("n1");
    for (let each = 0; each < 3; each++) other.reserve("n1");
    test.same([one.excess("n1"), other.excess("n1")], [0, 0]);
    one.setShare("n1", 3, true, soonMs());
    test.same([one.excess("n1"), other.excess("n1")], [4, 2]);
    test.ok(other.capped("n1"));
    one.clear();
    test.equal(other.open("n1"), 3);
    test.equal(other.excess("n1"), 0);
  },
);

t.test("without a lease, or when it is over, a small default holds", async (test) => {
  const [one] = workers(1) as [NodeLimits];
  test.equal(one.limit("n1"), 3);
  one.setShare("n1", 50, false, soonMs());
  test.equal(one.limit("n1"), 50);
  one.setShare("n1", 50, false, sharedClockMs() - 1);
  test.equal(one.limit("n1"), 3);
  test.notOk(one.reserve("unknown"), "a node that nobody has heard of gets nothing");
  const free = new NodeLimits(NodeLimits.bufferFor(1), 0);
  free.unleased = Number.POSITIVE_INFINITY;
  test.ok(free.reserve("n1"), "where nobody leases there is no limit");
  test.equal(free.excess("n1"), 0);
});

t.test("it is asked for more than is in use, and soon when clients wait", async (test) => {
  test.same([0, 1, 8, 100].map(wishFor), [2, 3, 10, 125]);
  const asked = { askedAtMs: 0, asking: false };
  const enough = { wants: 3, open: 3, limit: 5 };
  test.notOk(isDue(asked, enough, 999));
  test.ok(isDue(asked, enough, 1_000));
  test.ok(isDue(asked, { ...enough, wants: 6 }, 100), "clients wait");
  test.ok(isDue(asked, { ...enough, open: 6 }, 100), "something is to be given back");
  test.notOk(isDue({ ...asked, asking: true }, { ...enough, wants: 6 }, 10_000), "one question at a time");
});
