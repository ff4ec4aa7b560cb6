/** Reads how many tests passed and failed from what test runners print. */

export type Totals = { readonly passed: number; readonly failed: number };

export const nothing: Totals = { passed: 0, failed: 0 };

export function add(a: Totals, b: Totals): Totals {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed };
}

/** node-tap's last words: `# { total: 296, pass: 295, fail: 1 }`. */
export function nodeTapTotals(output: string): Totals | undefined {
  const matches = [...output.matchAll(/^# \{ total: (\d+)([^}]*)\}/gm)];
  const last = matches.at(-1);
  if (last === undefined) return undefined;
  const count = (name: string) => Number(new RegExp(`\\b${name}: (\\d+)`).exec(last[2] ?? "")?.[1] ?? 0);
  // A test that is yet to be written has not passed. One that doesn't fit the surroundings counts neither way.
  return { passed: count("pass"), failed: count("fail") + count("todo") };
}

/** pg_regress and pg_isolation_regress: `ok 1 - boolean 120 ms`, `# parallel group`, `not ok 3     + numeric 80 ms`. */
export function pgRegressTotals(output: string): Totals {
  const passed = [...output.matchAll(/^ok \d+\s/gm)].length;
  const failed = [...output.matchAll(/^not ok \d+\s/gm)].length;
  return { passed, failed };
}

/** Plain C test runners end with `N passed, M failed`. */
export function plainTotals(output: string): Totals | undefined {
  const last = [...output.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1);
  return last === undefined ? undefined : { passed: Number(last[1]), failed: Number(last[2]) };
}

/** Test files that `prove` ran: `t/001_stream_rep.pl .. ok`, `t/002.pl .. Dubious, …`. */
export function proveTotals(output: string): Totals {
  const passed = [...output.matchAll(/^(?:# )?t\/\S+\.pl \.+ ok$/gm)].length;
  const failed = [...output.matchAll(/^(?:# )?t\/\S+\.pl \.+ (?!ok$|skipped)/gm)].length;
  return { passed, failed };
}
