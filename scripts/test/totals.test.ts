import { test } from "tap";
import { tapDigest } from "../lib/tap-digest.ts";
import { add, nodeTapTotals, pgRegressTotals, plainTotals, proveTotals } from "../lib/totals.ts";

test("node-tap's summary; what was skipped or is yet to be written has not passed", async (t) => {
  t.same(nodeTapTotals("# { total: 296, pass: 296 }\n"), { passed: 296, failed: 0 });
  t.same(nodeTapTotals("# { total: 5, pass: 1, fail: 2, todo: 1, skip: 1 }\n"), { passed: 1, failed: 3 });
  t.equal(nodeTapTotals("No valid test files found"), undefined);
});

test("pg_regress", async (t) => {
  const output = [
    "# parallel group (2 tests):  boolean char",
    "ok 1         + boolean                                   120 ms",
    "not ok 2     + char                                       20 ms",
    "ok 3         - test_setup                                200 ms",
    "# 1 of 3 tests failed.",
  ].join("\n");
  t.same(pgRegressTotals(output), { passed: 2, failed: 1 });
});

test("prove", async (t) => {
  const output = [
    "t/001_stream_rep.pl ............ ok",
    "t/002_archiving.pl ............. Dubious, test returned 29 (wstat 7424, 0x1d00)",
    "t/003_x.pl ..................... skipped: not supported",
  ].join("\n");
  t.same(proveTotals(output), { passed: 1, failed: 1 });
});

test("plain runners and sums", async (t) => {
  t.same(plainTotals("x\n12 passed, 3 failed\n"), { passed: 12, failed: 3 });
  t.equal(plainTotals("all fine"), undefined);
  t.same(add({ passed: 1, failed: 2 }, { passed: 3, failed: 4 }), { passed: 4, failed: 6 });
});

test("the digest of a TAP stream shows one line per good file and the whole of a bad one", async (t) => {
  const lines: string[] = [];
  const digest = tapDigest((line) => lines.push(line));
  const stream = [
    "TAP version 14",
    "1..2",
    "# Subtest: a.test.ts",
    "    ok 1 - fine",
    "    1..1",
    "ok 1 - a.test.ts # time=12ms",
    "# Subtest: b.test.ts",
    "    ok 1 - fine",
    "    not ok 2 - broken",
    "      ---",
    "      diff: x",
    "      ...",
    "    1..2",
    "not ok 2 - b.test.ts # time=7ms",
    "  ---",
    "  exitCode: 1",
    "  ...",
    "# { total: 3, pass: 2, fail: 1 }",
  ].join("\n");
  for (let at = 0; at < stream.length; at += 7) digest.write(stream.slice(at, at + 7));
  digest.end();
  t.same(lines, [
    "  ok      a.test.ts (12ms)",
    "  FAILED  b.test.ts",
    "        not ok 2 - broken",
    "          ---",
    "          diff: x",
    "          ...",
    "        1..2",
    "      ---",
    "      exitCode: 1",
    "      ...",
  ]);
});
