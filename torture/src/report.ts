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
}

export function rowsOf(strikes: readonly Strike[]): Row[] {
  const byFault = new Map<string, Strike[]>();
  for (const strike of strikes) byFault.set(strike.fault, [...(byFault.get(strike.fault) ?? []), strike]);
  return [...byFault].map(([fault, all]) => {
    const gap = summarize(all.map(({ gapMs }) => gapMs));
    const whole = summarize(all.map(({ wholeMs }) => wholeMs));
    const aimMs = all[0]?.aimMs ?? null;
    return { fault, count: all.length, gapP50Ms: gap.p50, gapP99Ms: gap.p99, aimMs, wholeP50Ms: whole.p50 };
  });
}

/** What was lost is known of a whole cluster's history, not of one fault: the columns are filled when nothing was. */
export function tableOf(results: readonly Result[]): string {
  const lost = results.some((result) => !isClean(result)) ? "?" : "0";
  const lines = [
    "| fault | count | gap p50, ms | gap p99, ms | aim p50, ms | whole again p50, ms | lost | seen, then lost |",
    "|---|--:|--:|--:|--:|--:|--:|--:|",
  ];
  for (const { fault, count, gapP50Ms, gapP99Ms, aimMs, wholeP50Ms } of rowsOf(
    results.flatMap(({ strikes }) => strikes),
  ))
    lines.push(
      `| ${fault} | ${count} | ${gapP50Ms} | ${gapP99Ms} | ${aimMs ?? "–"} | ${wholeP50Ms} | ${lost} | ${lost} |`,
    );
  return lines.join("\n");
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
