// Pure: the table fault × (count, gap p50/p99, aim, time until whole).
import { summarize } from "../../bench/statistics.ts";
import type { Result, Strike } from "./run.ts";

export interface Row {
  readonly fault: string;
  readonly count: number;
  readonly gapP50Ms: number;
  readonly gapP99Ms: number;
  readonly aimMs: number | null;
  readonly wholeP50Ms: number;
  /** Null: it was not noted. */
  readonly loadP50: number | null;
}

export function rowsOf(strikes: readonly Strike[]): Row[] {
  const byFault = new Map<string, Strike[]>();
  for (const strike of strikes) byFault.set(strike.fault, [...(byFault.get(strike.fault) ?? []), strike]);
  return [...byFault].map(([fault, all]) => {
    const gap = summarize(all.map(({ gapMs }) => gapMs));
    const whole = summarize(all.map(({ wholeMs }) => wholeMs));
    const aimMs = all[0]?.aimMs ?? null;
    const loads = all.flatMap(({ load }) => load ?? []);
    return {
      fault,
      count: all.length,
      gapP50Ms: gap.p50,
      gapP99Ms: gap.p99,
      aimMs,
      wholeP50Ms: whole.p50,
      loadP50: loads.length === 0 ? null : summarize(loads).p50,
    };
  });
}

/** What was lost is known of a whole cluster's history, not of one fault: the columns are filled when nothing was. */
export function tableOf(results: readonly Result[]): string {
  const lost = results.some((result) => !isClean(result)) ? "?" : "0";
  const lines = [
    "| fault | count | gap p50, ms | gap p99, ms | aim p50, ms | whole again p50, ms | load p50 | lost | seen, then lost |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
  ];
  for (const { fault, count, gapP50Ms, gapP99Ms, aimMs, wholeP50Ms, loadP50 } of rowsOf(
    results.flatMap(({ strikes }) => strikes),
  )) {
    const figures = [count, gapP50Ms, gapP99Ms, aimMs ?? "–", wholeP50Ms, loadP50 ?? "–", lost, lost];
    lines.push(`| ${fault} | ${figures.join(" | ")} |`);
  }
  return lines.join("\n");
}

const begin = "<!-- table -->";
const end = "<!-- /table -->";

/** A page with the table between its marks anew. */
export function withTable(page: string, table: string): string {
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`the page has no "${begin}" with "${end}" behind it`);
  return `${page.slice(0, from)}${begin}\n${table}\n${page.slice(to)}`;
}

export function isClean({ lost, seenThenLost, other }: Result): boolean {
  return lost.length + seenThenLost.length + other.length === 0;
}

export function summaryOf(results: readonly Result[]): string {
  const all = <T>(of: (result: Result) => readonly T[]): T[] => results.flatMap(of);
  const sum = (of: (result: Result) => number): number =>
    results.reduce((total, each) => total + of(each), 0);
  const lost = all((result) => result.lost);
  const seenThenLost = all((result) => result.seenThenLost);
  const other = all((result) => result.other);
  return [
    `${sum(({ strikes }) => strikes.length)} faults, ${sum(({ acknowledged }) => acknowledged)} acknowledged appends, ` +
      `${sum(({ reads }) => reads)} reads of lists: ` +
      `${lost.length} lost, ${seenThenLost.length} seen and then lost, ${other.length} other complaints`,
    ...[...lost, ...seenThenLost, ...other].slice(0, 20),
  ].join("\n");
}
