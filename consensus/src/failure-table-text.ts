// The failure table for people: as lines, as a Markdown table, as a diagram. All from the rows that decide.

import { failureTable, type Row } from "./failure-rows.ts";

function isAboutLeader(row: Row): boolean {
  return !row.name.startsWith("node_") && row.name !== "operator_stopped";
}

export function failureTableMarkdown(): string {
  const lines = ["| row | situation | decision | patience |", "|---|---|---|---|"];
  for (const { name, situation, decision, patience } of failureTable) {
    lines.push(`| \`${name}\` | ${situation} | ${decision} | ${patience || "–"} |`);
  }
  return lines.join("\n");
}

/** Mermaid: which situation leads to which decision. */
export function failureTableDiagram(): string {
  const decisions = [...new Set(failureTable.map((row) => row.decision))];
  const lines = ["flowchart LR", "  look([look at every node])"];
  for (const group of [true, false]) {
    lines.push(
      `  subgraph ${group ? "leader[about the leader: the first that applies]" : "node[about each other node]"}`,
    );
    for (const row of failureTable.filter((each) => isAboutLeader(each) === group)) {
      lines.push(`    ${row.name}["${row.name.replaceAll("_", " ")}"]`);
    }
    lines.push("  end");
  }
  lines.push("  look --> leader", "  leader -- it leads --> node");
  for (const [index, decision] of decisions.entries()) {
    lines.push(`  decision${index}{{${decision.replace(":", "")}}}`);
    for (const row of failureTable.filter((each) => each.decision === decision)) {
      lines.push(`  ${row.name} --> decision${index}`);
    }
  }
  return lines.join("\n");
}
