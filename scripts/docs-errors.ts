/** Writes docs/errors.md from the tables of error codes of all workspaces; `--check` only compares. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { ErrorTable } from "@quorate/common";
import { Command } from "commander";
import { repoRoot } from "./lib/repo.ts";

export const errorsPage = path.join(repoRoot, "docs/errors.md");

export type PackageTable = { readonly workspace: string; readonly table: ErrorTable };

export async function loadTables(): Promise<PackageTable[]> {
  const tables: PackageTable[] = [];
  for (const workspace of readdirSync(repoRoot).sort()) {
    const file = path.join(repoRoot, workspace, "src/error-codes.ts");
    if (workspace.startsWith(".") || workspace === "node_modules" || !existsSync(file)) continue;
    const module: { errorTable?: ErrorTable } = await import(pathToFileURL(file).href);
    if (module.errorTable === undefined)
      throw new Error(`${workspace}/src/error-codes.ts exports no errorTable`);
    tables.push({ workspace, table: module.errorTable });
  }
  return tables;
}

export function renderErrorsPage(tables: readonly PackageTable[]): string {
  const seen = new Map<string, string>();
  const lines = [
    "# Error codes",
    "",
    "Every error that Quorate reports has a stable code. Written from the tables in `*/src/error-codes.ts` by " +
      "`npm run docs:errors`; a test keeps both equal.",
  ];
  for (const { workspace, table } of tables) {
    lines.push("", `## ${workspace}`, "", "| code | what has happened | what to do |", "|---|---|---|");
    for (const [code, row] of Object.entries(table).sort(([a], [b]) => (a < b ? -1 : 1))) {
      const other = seen.get(code);
      if (other !== undefined) throw new Error(`error code ${code} is in ${other} and in ${workspace}`);
      seen.set(code, workspace);
      lines.push(`| \`${code}\` | ${row.means} | ${row.todo} |`);
    }
  }
  return `${lines.join("\n")}\n`;
}

async function main(): Promise<void> {
  const command = new Command("docs-errors")
    .description("write docs/errors.md from the tables of error codes")
    .option("--check", "change nothing, fail if the page is not up to date")
    .parse();
  const page = renderErrorsPage(await loadTables());
  const current = existsSync(errorsPage) ? readFileSync(errorsPage, "utf8") : "";
  if (command.opts<{ check?: boolean }>().check === true) {
    if (page === current) return;
    console.error("docs/errors.md is not up to date: run npm run docs:errors");
    process.exitCode = 1;
  } else if (page !== current) {
    writeFileSync(errorsPage, page);
    console.log("docs/errors.md written");
  }
}

if (import.meta.main) await main();
