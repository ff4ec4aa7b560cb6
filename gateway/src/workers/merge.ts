/** Several workers' answers made one: rows added up or put behind each other, metrics sorted by name. */
import type { Cell, Table } from "../admin/console.ts";
import { Histogram } from "../admin/histogram.ts";
import type { Latency } from "./messages.ts";

export type Part = { readonly table: Table; readonly latency: Latency };

/** Columns of SHOW POOLS that aren't sums. */
const poolMaxima = new Set(["maxwait_ms", "paused", "lease", "lease_used"]);
const poolKeys = new Set(["database", "user", "role", "node", "term"]);

export function mergeTables(words: readonly string[], parts: readonly Part[]): Table {
  const tables = parts.map((part) => part.table);
  const first = tables[0] as Table;
  switch ((words[1] ?? "").toUpperCase()) {
    case "CLIENTS":
    case "SERVERS":
      return { ...first, rows: tables.flatMap((table) => table.rows) };
    case "POOLS":
    case "DATABASES":
      return { ...first, rows: mergePools(first.columns, tables) };
    case "STATS":
      return { ...first, rows: mergeStats(tables, addUp(parts.map((part) => part.latency))) };
    default:
      return first;
  }
}

function mergePools(columns: readonly string[], tables: readonly Table[]): Cell[][] {
  const merged = new Map<string, Cell[]>();
  for (const row of tables.flatMap((table) => table.rows)) {
    const key = columns.map((name, at) => (poolKeys.has(name) ? String(row[at]) : "")).join("\0");
    const sum = merged.get(key);
    if (sum === undefined) {
      merged.set(key, [...row]);
      continue;
    }
    for (const [at, name] of columns.entries()) {
      const left = sum[at] ?? null;
      const right = row[at] ?? null;
      if (poolKeys.has(name) || left === null || right === null) continue;
      if (poolMaxima.has(name)) sum[at] = left > right ? left : right;
      else if (typeof left === "number" && typeof right === "number") sum[at] = left + right;
    }
  }
  return [...merged.values()];
}

function mergeStats(tables: readonly Table[], latency: Histogram): Cell[][] {
  const sums = new Map<string, Cell>();
  for (const [name, value] of tables.flatMap((table) => table.rows as (readonly [string, Cell])[])) {
    const before = sums.get(name);
    sums.set(name, typeof before === "number" && typeof value === "number" ? before + value : value);
  }
  for (const [name, value] of latencyRows(latency)) sums.set(name, value);
  return [...sums];
}

/** The rows of SHOW STATS that can't be added up. */
export function latencyRows(latency: Histogram): [string, Cell][] {
  const ms = (share: number) => latency.percentileMs(share).toFixed(3);
  return [
    ["latency_ms_mean", latency.count === 0 ? 0 : (latency.sumMs / latency.count).toFixed(3)],
    ["latency_ms_p50", ms(0.5)],
    ["latency_ms_p95", ms(0.95)],
    ["latency_ms_p99", ms(0.99)],
  ];
}

function addUp(latencies: readonly Latency[]): Histogram {
  const sum = new Histogram();
  for (const each of latencies) {
    sum.count += each.count;
    sum.sumMs += each.sumMs;
    for (let at = 0; at < sum.counts.length; at++)
      sum.counts[at] = (sum.counts[at] as number) + (each.counts[at] ?? 0);
  }
  return sum;
}

/** Samples of one name stand together, below one HELP and TYPE. */
export function mergeMetrics(texts: readonly string[]): string {
  const groups = new Map<string, { head: string[]; samples: string[] }>();
  for (const text of texts) {
    let name = "";
    for (const line of text.split("\n")) {
      if (line === "") continue;
      if (line.startsWith("# ")) name = line.split(" ")[2] ?? "";
      let group = groups.get(name);
      if (group === undefined) {
        group = { head: [], samples: [] };
        groups.set(name, group);
      }
      if (!line.startsWith("# ")) group.samples.push(line);
      else if (!group.head.includes(line)) group.head.push(line);
    }
  }
  return `${[...groups.values()].flatMap((group) => [...group.head, ...group.samples]).join("\n")}\n`;
}
