import { readFileSync, writeFileSync } from "node:fs";
import t from "tap";
import { failureTable, failureTableDiagram, failureTableMarkdown } from "../src/index.ts";

const path = new URL("../../docs/failure-table.md", import.meta.url);

function between(text: string, mark: string, content: string): string {
  const from = `<!-- ${mark} -->`;
  const to = `<!-- /${mark} -->`;
  return `${text.slice(0, text.indexOf(from))}${from}\n\n${content}\n\n${text.slice(text.indexOf(to))}`;
}

const page = readFileSync(path, "utf8");
const diagram = `\`\`\`mermaid\n${failureTableDiagram()}\n\`\`\``;
const wanted = between(between(page, "table", failureTableMarkdown()), "diagram", diagram);
if (process.env.REWRITE === "1") {
  writeFileSync(path, wanted);
}

t.equal(readFileSync(path, "utf8"), wanted, "docs/failure-table.md is what the rows say (REWRITE=1)");
t.equal(new Set(failureTable.map(({ name }) => name)).size, failureTable.length, "row names are unique");
t.end();
