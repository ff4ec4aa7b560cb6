/** What a suite said on a direct connection and through the gateway, compared. Pure. */

export type Outcome = "ok" | "failed" | "skipped";

export type TestResult = {
  readonly outcome: Outcome;
  /** What it said when it failed: for pg_regress the lines that differ. */
  readonly detail?: string;
};

export type Results = ReadonlyMap<string, TestResult>;

/** A difference that docs/gateway-differences.md explains. */
export type Known = {
  readonly test: string | RegExp;
  readonly reason: string;
  /** If given, the test may differ in nothing but such lines. */
  readonly lines?: RegExp;
};

export type Difference = {
  readonly test: string;
  readonly direct: Outcome | "missing";
  readonly through: Outcome | "missing";
  readonly detail: string;
  /** Why it is so, if that is known. */
  readonly reason: string | undefined;
};

export type Verdict = {
  readonly suite: string;
  readonly direct: Readonly<Record<Outcome, number>>;
  readonly through: Readonly<Record<Outcome, number>>;
  readonly differences: readonly Difference[];
  /** Failed directly: what they say of the gateway is nothing. */
  readonly failedDirectly: readonly string[];
};

/** The lines of a diff that were added or removed. */
export function changedLines(diff: string): string[] {
  return diff.split("\n").filter((line) => /^[-+](?!--|\+\+)/.test(line) && line.slice(1).trim() !== "");
}

function explains(known: Known, test: string, detail: string): boolean {
  if (typeof known.test === "string" ? known.test !== test : !known.test.test(test)) return false;
  const { lines } = known;
  return lines === undefined || changedLines(detail).every((line) => lines.test(line.slice(1)));
}

function count(results: Results): Record<Outcome, number> {
  const counts: Record<Outcome, number> = { ok: 0, failed: 0, skipped: 0 };
  for (const { outcome } of results.values()) counts[outcome]++;
  return counts;
}

/** By chance, on a busy machine: that it passes through the gateway is no fault of the gateway's. */
function failsDirectly(direct: TestResult | undefined, through: TestResult | undefined): string | undefined {
  return direct?.outcome === "failed" && through?.outcome === "ok"
    ? "it fails without the gateway"
    : undefined;
}

export function compare(suite: string, direct: Results, through: Results, known: readonly Known[]): Verdict {
  const differences: Difference[] = [];
  for (const test of new Set([...direct.keys(), ...through.keys()])) {
    const [one, other] = [direct.get(test), through.get(test)];
    if (one?.outcome === other?.outcome) continue;
    const detail = other?.detail ?? one?.detail ?? "";
    differences.push({
      test,
      direct: one?.outcome ?? "missing",
      through: other?.outcome ?? "missing",
      detail,
      reason: known.find((each) => explains(each, test, detail))?.reason ?? failsDirectly(one, other),
    });
  }
  const failedDirectly = [...direct]
    .filter(([, { outcome }]) => outcome === "failed")
    .map(([test, { detail }]) => `${test}: ${detail?.split("\n").slice(-3).join(" | ") ?? ""}`);
  return { suite, direct: count(direct), through: count(through), differences, failedDirectly };
}

export const unexplained = (verdict: Verdict): readonly Difference[] =>
  verdict.differences.filter(({ reason }) => reason === undefined);

/** A suite that ran nothing has judged nothing. */
export const passed = (verdict: Verdict): boolean =>
  unexplained(verdict).length === 0 && verdict.through.ok > 0 && verdict.direct.ok > 0;

/** Of pg_regress, pg_isolation_regress: `ok 3   + name   12 ms`. */
export function pgRegressResults(output: string, diffs: string): Results {
  const details = new Map<string, string>();
  for (const part of diffs.split(/^(?=diff )/m)) {
    const name = /^diff .*\/(\S+)\.out\s*$/m.exec(part)?.[1];
    if (name !== undefined) details.set(name, part);
  }
  const results = new Map<string, TestResult>();
  for (const [, not, name = ""] of output.matchAll(/^(not )?ok \d+\s+[-+]\s+(\S+)/gm)) {
    const detail = details.get(name) ?? "";
    results.set(name, not === undefined ? { outcome: "ok" } : { outcome: "failed", detail });
  }
  return results;
}

/** Of runners of our own: a line `[name, outcome, detail]` for each test; the end of what it said is kept. */
export function resultLines(lines: readonly string[]): Results {
  const results = new Map<string, TestResult>();
  for (const line of lines) {
    const [name, outcome, detail] = JSON.parse(line) as [string, Outcome, string];
    results.set(name, { outcome, detail: detail.trim().split("\n").slice(-8).join("\n") });
  }
  return results;
}
