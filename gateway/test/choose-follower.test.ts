import t from "tap";
import { chooseFollower, levelChanges, parseReadLevel, type Wish } from "../src/route/choose-follower.ts";
import type { FollowerEndpoint } from "../src/route/leader-source.ts";
import { formatLsn, parseLsn } from "../src/session/position.ts";

const follower = (node: string, more: Partial<FollowerEndpoint> = {}): FollowerEndpoint => ({
  node,
  term: 1,
  host: node,
  port: 5432,
  zone: "a",
  appliedLsn: 100n,
  lagBytes: 0,
  seenAtMs: 0,
  ...more,
});
const wish = (more: Partial<Wish> = {}): Wish => ({
  zone: undefined,
  lsn: 0n,
  mostLagBytes: 1_000,
  last: undefined,
  ...more,
});
const idle = () => 0;

t.test("levels are read as the server writes them", async (t) => {
  t.same(parseReadLevel(undefined), { kind: "leader" });
  t.same(parseReadLevel("session"), { kind: "session" });
  t.same(parseReadLevel("bounded(500)"), { kind: "bounded", ms: 500 });
  t.same(parseReadLevel("bounded(1.5s)"), { kind: "bounded", ms: 1_500 });
  t.same(parseReadLevel("bounded(2 min)"), { kind: "bounded", ms: 120_000 });
  for (const text of ["", "bounded()", "bounded(x)", "Session", "bounded(1y)"])
    t.same(parseReadLevel(text), { kind: "leader" }, `"${text}" means the leader`);
});

t.test("a change of the level changes just the settings that differ", async (t) => {
  t.same(levelChanges({ kind: "session" }, { kind: "bounded", ms: 7 }, 300), [
    { name: "quorate.report_commit_lsn", value: null },
    { name: "quorate.report_read_lsn", value: null },
    { name: "quorate.max_staleness", value: "7" },
    { name: "quorate.staleness_timeout", value: "300" },
  ]);
  t.same(levelChanges({ kind: "eventual" }, { kind: "leader" }, 300), []);
});

t.test("zone, then what is applied, then load; too far behind is nobody", async (t) => {
  const all = [follower("b", { zone: "b" }), follower("near"), follower("far", { lagBytes: 2_000 })];
  t.equal(chooseFollower(all, wish({ zone: "a" }), idle)?.node, "near");
  t.equal(chooseFollower(all, wish({ zone: "c" }), idle)?.node, "b", "another zone is better than none");
  t.equal(chooseFollower([follower("far", { lagBytes: 2_000 })], wish(), idle), undefined);
  const behind = [follower("old", { appliedLsn: 50n }), follower("new")];
  t.equal(chooseFollower(behind, wish({ lsn: 80n, last: "old" }), idle)?.node, "new");
  t.equal(chooseFollower(behind, wish({ lsn: 20n, last: "new" }), idle)?.node, "new", "the one it knows");
  t.equal(chooseFollower(behind, wish({ last: "new" }), ({ node }) => (node === "new" ? 5 : 0))?.node, "old");
});

t.test(
  "of followers that lack what is wanted, the one that is nearest to it: another may stand still",
  async (t) => {
    const ids = ["still", "goes"] as const;
    for (const order of [ids, [...ids].reverse()])
      for (const last of [undefined, ...ids]) {
        const behind = order.map((id) => follower(id, { appliedLsn: id === "goes" ? 90n : 50n }));
        t.equal(
          chooseFollower(behind, wish({ lsn: 100n, last }), idle)?.node,
          "goes",
          `${order}, last ${last}`,
        );
      }
  },
);

t.test(
  "what is known of positions is a moment old: the one that answered last stays, if none is further",
  async (t) => {
    const same = [follower("still", { appliedLsn: 90n }), follower("goes", { appliedLsn: 90n })];
    t.equal(chooseFollower(same, wish({ lsn: 100n, last: "goes" }), idle)?.node, "goes");
  },
);

t.test("positions", async (t) => {
  t.equal(parseLsn("16/B374D848"), 0x16_b374_d848n);
  t.equal(formatLsn(0x16_b374_d848n), "16/B374D848");
  t.equal(parseLsn(""), 0n);
});
