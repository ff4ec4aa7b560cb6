import { readFileSync } from "node:fs";
import { test } from "tap";
import { errorsPage, loadTables, renderErrorsPage } from "../../scripts/docs-errors.ts";

test("docs/errors.md is the tables of all workspaces", async (t) => {
  const tables = await loadTables();
  t.ok(tables.some(({ workspace }) => workspace === "common"));
  t.equal(readFileSync(errorsPage, "utf8"), renderErrorsPage(tables), "run npm run docs:errors");
});

test("a code belongs to one workspace", async (t) => {
  const table = { same: { means: "a", todo: "b" } };
  t.throws(
    () =>
      renderErrorsPage([
        { workspace: "a", table },
        { workspace: "b", table },
      ]),
    /same is in a and in b/,
  );
});
