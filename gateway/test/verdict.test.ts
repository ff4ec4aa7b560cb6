import t from "tap";
import {
  changedLines,
  compare,
  passed,
  pgRegressResults,
  resultLines,
  unexplained,
} from "../scripts/judge/verdict.ts";

const output = `# parallel group (3 tests):  a b c
ok 1         + alpha                                   12 ms
not ok 2     + beta                                    12 ms
not ok 3     - gamma                                    3 ms
`;
const diffs = `diff -U3 /srv/expected/beta.out /srv/results/beta.out
--- /srv/expected/beta.out	2026
+++ /srv/results/beta.out	2026
@@ -1,3 +1,3 @@
 same
-old
+new
diff -U3 /srv/expected/gamma.out /srv/results/gamma.out
--- /srv/expected/gamma.out	2026
+++ /srv/results/gamma.out	2026
@@ -1,1 +1,0 @@
-WARNING:  gone
`;

t.test("pg_regress's output and its diffs, test by test", async (t) => {
  const results = pgRegressResults(output, diffs);
  t.same(
    [...results].map(([name, { outcome, detail }]) => [name, outcome, changedLines(detail ?? "")]),
    [
      ["alpha", "ok", []],
      ["beta", "failed", ["-old", "+new"]],
      ["gamma", "failed", ["-WARNING:  gone"]],
    ],
  );
});

t.test("what differs is explained by its test and its lines, or not at all", async (t) => {
  const direct = pgRegressResults(output.replaceAll("not ok", "ok"), "");
  const through = pgRegressResults(output, diffs);
  const known = (lines: RegExp) => [{ test: "beta", lines, reason: "because" }];
  t.same(
    compare("x", direct, through, known(/^(old|new)$/)).differences.map(({ test, reason }) => [test, reason]),
    [
      ["beta", "because"],
      ["gamma", undefined],
    ],
  );
  t.same(
    unexplained(compare("x", direct, through, known(/^old$/))).map(({ test }) => test),
    ["beta", "gamma"],
    "a known test that differs in another line is not explained",
  );
  t.notOk(passed(compare("x", direct, through, known(/./))));
  t.ok(passed(compare("x", direct, direct, [])));
  t.same(compare("x", through, through, []).differences, [], "what fails both ways is no difference");
});

t.test("a suite that ran nothing, or not all, has not passed", async (t) => {
  const direct = pgRegressResults(output, diffs);
  t.notOk(passed(compare("x", new Map(), new Map(), [])));
  t.same(
    unexplained(compare("x", direct, new Map([["alpha", { outcome: "ok" as const }]]), [])).map(
      ({ test, through }) => [test, through],
    ),
    [
      ["beta", "missing"],
      ["gamma", "missing"],
    ],
  );
});

t.test("what fails without the gateway only is no difference that wants a reason", async (t) => {
  const [good, bad] = [
    pgRegressResults(output.replaceAll("not ok", "ok"), ""),
    pgRegressResults(output, diffs),
  ];
  t.same(unexplained(compare("x", bad, good, [])), []);
  t.equal(unexplained(compare("x", good, bad, [])).length, 2);
});

t.test("a runner's lines: of what a test said the end is kept", async (t) => {
  const said = Array.from({ length: 20 }, (_, line) => `line ${line}`).join("\n");
  const results = resultLines([JSON.stringify(["one", "ok", ""]), JSON.stringify(["two", "failed", said])]);
  t.same(results.get("one"), { outcome: "ok", detail: "" });
  t.match(results.get("two")?.detail, /^line 12\n(?:.*\n)*line 19$/);
});
