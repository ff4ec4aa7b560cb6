import t from "tap";
import { type Append, type Final, type History, judge, longestGapMs } from "../src/checkers.ts";
import { Random } from "../src/random.ts";

const sum = 1_000;
const clean: History = {
  appends: [1, 2, 3, 4].map((value): Append => ({ list: value % 2, value, outcome: "acknowledged" })),
  reads: [{ node: "n2", list: 1, values: [1] }],
  sums: [{ node: "n2", sum }],
  claims: [
    { node: "n1", term: 1 },
    { node: "n1", term: 1 },
    { node: "n2", term: 2 },
  ],
};

function final(node: string, zero: number[] = [2, 4], one: number[] = [1, 3]): Final {
  return {
    node,
    lists: new Map([
      [0, zero],
      [1, one],
    ]),
  };
}

function complaints(change: Partial<History>, finals = [final("n1"), final("n2")]): string[] {
  const { lost, seenThenLost, other } = judge({ ...clean, ...change }, finals, sum);
  return [...lost.map((each) => `lost: ${each}`), ...seenThenLost.map((each) => `seen: ${each}`), ...other];
}

t.test("a clean history has no complaint", async (t) => {
  t.same(complaints({}), []);
  t.same(complaints({ appends: [...clean.appends, { list: 0, value: 9, outcome: "doubtful" }] }), []);
});

t.test("each kind of damage is found", async (t) => {
  t.match(complaints({}, [final("n1"), final("n2", [2])]).join(), /lost: 4 was acknowledged.*n2/);
  const lost = [final("n1", [2]), final("n2", [2])];
  const doubtful = clean.appends.filter(({ value }) => value !== 4);
  const seen = { appends: doubtful, reads: [{ node: "n3", list: 0, values: [2, 4] }] };
  t.match(complaints(seen, lost).join(), /seen: 4 of list 0 was read on n3/);
  t.match(complaints({ reads: [{ node: "n3", list: 0, values: [4] }] }).join(), /no beginning/);
  t.match(complaints({ sums: [{ node: "n3", sum: 999 }] }).join(), /summed up to 999/);
  t.match(
    complaints({ claims: [...clean.claims, { node: "n3", term: 2 }] }).join(),
    /n2 and n3 both led term 2/,
  );
  const refused = { appends: [...doubtful, { list: 0, value: 4, outcome: "refused" } as const] };
  t.match(complaints(refused).join(), /n1 holds 4, which nobody wrote/);
  t.match(complaints({}, [final("n1"), final("n2", [4, 2])]).join(), /list 0 differs between n1 and n2/);
  t.match(complaints({}, [final("n1", [2, 4, 4]), final("n2", [2, 4, 4])]).join(), /a value twice/);
  t.match(complaints({}, []).join(), /no node/);
});

t.test("the longest gap overlaps the time asked for", async (t) => {
  const acks = [0, 10, 20, 500, 510, 2_000];
  t.equal(longestGapMs(acks, 15, 600), 1_490, "it may end after the time asked for");
  t.equal(longestGapMs(acks, 100, 505), 480, "and begin before");
  t.equal(longestGapMs([0, 10], 5, 1_000), 990, "no acknowledgement any more");
});

t.test("the same seed gives the same numbers", async (t) => {
  const draw = (seed: number): number[] => {
    const random = new Random(seed);
    return Array.from({ length: 20 }, () => random.int(1, 6));
  };
  t.same(draw(7), draw(7));
  t.not(String(draw(7)), String(draw(8)));
  t.same([...new Random(3).shuffle([1, 2, 3])].sort(), [1, 2, 3]);
});
