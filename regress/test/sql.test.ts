/** regress/sql by pg_regress; one subtest for each file. */
import { test } from "tap";
import { regressTests, runPgRegress } from "../lib/pg-regress.ts";

test("pg_regress", async (t) => {
  const { ok, report, diffs } = await runPgRegress(regressTests);
  if (diffs !== "") t.comment(diffs);
  for (const name of regressTests) t.match(report, new RegExp(`^ok \\d+ +- ${name} `, "m"), name);
  t.ok(ok, report);
});
