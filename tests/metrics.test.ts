/** Names of metrics are an interface: each is in the docs, and what the docs name exists. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "tap";
import { repoRoot } from "../scripts/lib/repo.ts";

const files = execFileSync(
  "git",
  ["ls-files", "-z", "sidecar/src", "orchestrator/src", "gateway/src", "docs"],
  {
    cwd: repoRoot,
    encoding: "utf8",
  },
).split("\0");
const read = (file: string): string => readFileSync(path.join(repoRoot, file), "utf8");
const metricFiles = files.filter((file) => /metrics\.ts$/.test(file));
/** The gateway's are made with their prefix where they are written. */
const prefixed = "gateway/src/admin/metrics.ts";

function namesIn(file: string): string[] {
  const text = read(file);
  const whole = [...text.matchAll(/"(quorate_[a-z_]+[a-z])"/g)].map(([, name = ""]) => name);
  const parts = file === prefixed ? [...text.matchAll(/(?:add\(|\[)\s*"([a-z_]+)",\s*"/g)] : [];
  return [...whole, ...parts.map(([, name]) => `quorate_gateway_${name}`)];
}

const names = [...new Set(metricFiles.flatMap(namesIn))].sort();
const pages = files.filter((file) => file.endsWith(".md")).map(read);
/** The first column of every table whose head begins with "metric". */
function namesOf(page: string): string[] {
  const names: string[] = [];
  let inTable = false;
  for (const line of page.split("\n")) {
    inTable = /^\| metric/.test(line) || (inTable && line.startsWith("|"));
    const [column = ""] = inTable ? line.split(" | ") : [];
    for (const [, name = ""] of column.matchAll(/`(quorate_[a-z_]+[a-z])[`{]/g)) names.push(name);
  }
  return names;
}
const documented = new Set(pages.flatMap(namesOf));

test("every metric is in a table of the docs", async (t) => {
  t.ok(names.length > 45, `${names.length} names were found`);
  t.same(
    names.filter((name) => !documented.has(name)),
    [],
  );
});

test("every metric of the docs exists", async (t) => {
  t.same(
    [...documented].filter((name) => !names.includes(name)),
    [],
  );
});
