import t from "tap";
import { rowsOf, summaryOf, tableOf, withTable } from "../src/report.ts";
import type { Result, Strike } from "../src/run.ts";

const strike = (fault: string, gapMs: number, load?: number): Strike => ({
  fault,
  aimMs: 300,
  gapMs,
  wholeMs: 10,
  ...(load === undefined ? {} : { load }),
});
const result = (strikes: readonly Strike[], lost: readonly string[] = []): Result => ({
  strikes,
  acknowledged: 7,
  reads: 5,
  lost,
  seenThenLost: [],
  other: [],
});

t.test("a row per fault over all clusters, with the load of those that noted it", (t) => {
  const results = [result([strike("kill", 100), strike("cut", 1_000, 8)]), result([strike("kill", 300, 2)])];
  const strikes = results.flatMap((each) => each.strikes);
  t.match(rowsOf(strikes), [
    { fault: "kill", count: 2, gapP99Ms: 300, loadP50: 2 },
    { fault: "cut", count: 1, gapP50Ms: 1_000, loadP50: 8 },
  ]);
  t.match(rowsOf([strike("kill", 1)]), [{ loadP50: null }]);
  t.match(tableOf(results), /^\| cut \| 1 \| 1000 \| 1000 \| 300 \| 10 \| 8 \| 0 \| 0 \|$/m);
  t.match(tableOf([result([strike("kill", 1)], ["n1 lacks 5"])]), /\| – \| \? \| \? \|$/m, "not clean");
  t.match(summaryOf(results), /^3 faults, 14 acknowledged appends, 10 reads of lists: 0 lost/);
  t.end();
});

t.test("the table goes between the marks of a page", (t) => {
  const page = "before\n<!-- table -->\nold\n<!-- /table -->\nafter\n";
  t.equal(withTable(page, "new"), "before\n<!-- table -->\nnew\n<!-- /table -->\nafter\n");
  t.throws(() => withTable("no marks", "new"), /has no/);
  t.end();
});
