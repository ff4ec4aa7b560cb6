import { restartPauseMs } from "@quorate/common";
import { term } from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";
import t from "tap";
import { formatStoryLine, mergeStories, readComponentLine, readPostgresLine } from "../src/cli/story.ts";
import { repairPauseMs } from "../src/orchestrator.ts";
import { reopenPauseMs } from "../src/shell/cohort-watcher.ts";
import { formatPicture, isWhole, pictureOf, type Sighting } from "../src/view.ts";
import { followerStatus, leaderStatus, statusOf } from "./statuses.ts";

const text = JSON.stringify({
  version: 2,
  name: "majority",
  cohort: [{ id: "n1" }, { id: "n2" }],
  leaders: { n1: "2(n1,n2)" },
});

function sighting(id: string, status: NodeStatus | undefined): Sighting {
  return { id, zone: "a", host: "127.0.0.1", port: 5501, status };
}

t.test("a whole cluster", async (test) => {
  const picture = pictureOf("main", [
    sighting("n1", leaderStatus("n1", { ruleset: { version: 2, text } })),
    sighting("n2", followerStatus("n2", "n1")),
  ]);
  test.match(picture, {
    leader: "n1",
    term: 2,
    commitLsn: "0/4000",
    ruleset: { version: 2, policy: "majority", cohort: ["n1", "n2"] },
  });
  test.same(
    picture.nodes.map(({ role }) => role),
    ["leader", "follower"],
  );
  test.ok(isWhole(picture));
  const lines = formatPicture(picture).split("\n");
  test.match(lines[0], /leader n1, term 2, commit LSN 0\/4000, ruleset 2 \(majority\)/);
  test.match(lines[4], /^n2 +a +follower +2 +running +100 +5501 .* streaming$/);
});

t.test("no leader, a silent node, an older leader", async (test) => {
  const none = pictureOf("main", [sighting("n1", undefined), sighting("n2", statusOf("n2"))]);
  test.match(none, {
    leader: null,
    nodes: [{ role: "unknown", postgres: "unknown", pid: null }, { role: "fenced" }],
  });
  test.notOk(isWhole(none));
  test.match(formatPicture(none), /NO LEADER/);
  const two = pictureOf("main", [
    sighting("n1", leaderStatus("n1")),
    sighting("n2", leaderStatus("n2", { term: term(7) })),
  ]);
  test.match(two, { leader: "n2", term: 7, nodes: [{ role: "fenced" }, { role: "leader" }] });
});

t.test("a follower of an older term doesn't stream from the leader", async (test) => {
  const picture = pictureOf("main", [
    sighting("n1", leaderStatus("n1", { term: term(3), ruleset: { version: 2, text } })),
    sighting("n2", followerStatus("n2", "n1")),
  ]);
  test.equal(picture.nodes[1]?.streaming, false);
  test.notOk(isWhole(picture));
});

t.test("logs become one story, in order of time", async (test) => {
  const info = {
    level: "info",
    time: "2026-01-02T03:04:05.678Z",
    component: "x",
    pid: 1,
    msg: "n2 leads",
    term: 5,
  };
  const first = readComponentLine("o1", JSON.stringify(info), 0);
  test.equal(formatStoryLine(first), "03:04:05.678 o1          INFO  n2 leads term=5");
  const earlier = readPostgresLine("n1/pg", "2026-01-02 03:04:05.100 UTC [12] LOG:  ready", 0);
  test.equal(formatStoryLine(earlier), "03:04:05.100 n1/pg       [12] LOG:  ready");
  const torn = readPostgresLine("n1/pg", "\tDETAIL continues", earlier.timeMs);
  test.same(mergeStories([[first], [earlier, torn]]), [earlier, torn, first]);
});

t.test("first at once, then with growing, bounded pauses", async (test) => {
  test.equal(reopenPauseMs(0), 0);
  test.ok(reopenPauseMs(3) > reopenPauseMs(1));
  test.equal(reopenPauseMs(100), 500);
  test.equal(restartPauseMs(1), 0);
  test.equal(restartPauseMs(100), 5_000);
  test.ok(repairPauseMs(5) > repairPauseMs(1));
  test.equal(repairPauseMs(100), 5_000);
});
