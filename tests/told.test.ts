// What a failed test of a cluster tells.
import { poll } from "@quorate/common";
import { test } from "tap";
import { endOfStory, tellIfFailed } from "./lib/told.ts";

test("the end of a story without what every cluster says all the time", (t) => {
  const story = [
    "12:00:00.000 n1          INFO  first",
    "12:00:01.000 n1/pg       [77] LOG:  checkpoint starting: time",
    "12:00:02.000 n1          WARN  second",
    "",
    `12:00:03.000 n2          ERROR ${"x".repeat(400)}`,
    "",
  ].join("\n");
  const [before = "", long = ""] = endOfStory(story, 2);
  t.equal(before, "12:00:02.000 n1          WARN  second");
  t.match(long, /^12:00:03\.000 n2 {10}ERROR x+ …$/);
  t.ok(long.length < 310, "a long line is cut");
  t.end();
});

test("only a failed test tells", async (t) => {
  const said: string[] = [];
  const told = (passing: boolean) => ({
    teardown: () => undefined,
    passing: () => passing,
    comment: (text: string) => said.push(text),
  });
  await tellIfFailed(told(true), async () => "a story");
  t.same(said, []);
  await tellIfFailed(told(false), async () => "one\ntwo");
  t.same(said, ["the end of the story:\none\ntwo\n\nall of it:\none\ntwo"]);
  await tellIfFailed(told(false), async () => Promise.reject(new Error("no CLI")));
  t.match(said[1], /there is no story: Error: no CLI/);
});

test("a wait in vain says what was seen last", async (t) => {
  let looks = 0;
  const what = { what: "a miracle", timeoutMs: 5, intervalMs: 1, seen: () => `${looks} looks` };
  await t.rejects(
    poll(() => ++looks === 0, what),
    { message: /^waited 5 ms in vain for a miracle; seen last: [1-9]\d* looks$/ },
  );
});
