// Pure: what must hold of a history, whatever happened meanwhile. Each violation is a sentence.
//
// The append workload writes lists: each append adds one number, never used again, to one list. So the final list
// orders all appends that happened, and whatever anybody read at any time on any node must be a beginning of it.

export type Append = {
  readonly list: number;
  readonly value: number;
  /** acknowledged: the client was told so. doubtful: no answer. refused: the server certainly didn't do it. */
  readonly outcome: "acknowledged" | "doubtful" | "refused";
};

export type ListRead = { readonly node: string; readonly list: number; readonly values: readonly number[] };
export type SumRead = { readonly node: string; readonly sum: number };
export type Claim = { readonly node: string; readonly term: number };

export type History = {
  readonly appends: readonly Append[];
  /** The longest of what was read of each list on each node, and every read that was no prefix of that. */
  readonly reads: readonly ListRead[];
  readonly sums: readonly SumRead[];
  /** Who was seen or logged to lead which term. */
  readonly claims: readonly Claim[];
};

/** What a node holds at the end: its lists. */
export type Final = { readonly node: string; readonly lists: ReadonlyMap<number, readonly number[]> };

export type Verdict = {
  /** Acknowledged and not on every node. */
  readonly lost: readonly string[];
  /** Read by somebody and not on every node. */
  readonly seenThenLost: readonly string[];
  readonly other: readonly string[];
};

export function isPrefix(shorter: readonly number[], longer: readonly number[]): boolean {
  return shorter.length <= longer.length && shorter.every((value, index) => longer[index] === value);
}

export function judge(history: History, finals: readonly Final[], expectedSum: number): Verdict {
  return {
    lost: lostAppends(history, finals),
    seenThenLost: seenThenLost(history, finals),
    other: [
      ...wrongValues(history, finals),
      ...unequalLists(finals),
      ...wrongOrders(history, finals),
      ...wrongSums(history, expectedSum),
      ...sharedTerms(history.claims),
    ],
  };
}

function valuesOf(final: Final): Set<number> {
  return new Set([...final.lists.values()].flat());
}

function lostAppends({ appends }: History, finals: readonly Final[]): string[] {
  return finals.flatMap((final) => {
    const present = valuesOf(final);
    return appends
      .filter(({ outcome, value }) => outcome === "acknowledged" && !present.has(value))
      .map(({ value, list }) => `${value} was acknowledged, but list ${list} of ${final.node} lacks it`);
  });
}

function seenThenLost({ reads }: History, finals: readonly Final[]): string[] {
  return finals.flatMap((final) => {
    const present = valuesOf(final);
    const missing = new Map<number, string>();
    for (const { node, list, values } of reads)
      for (const value of values)
        if (!present.has(value))
          missing.set(value, `${value} of list ${list} was read on ${node}, but ${final.node} lacks it`);
    return [...missing.values()];
  });
}

function wrongValues({ appends }: History, finals: readonly Final[]): string[] {
  const possible = new Set(appends.filter(({ outcome }) => outcome !== "refused").map(({ value }) => value));
  return finals.flatMap((final) => {
    const all = [...final.lists.values()].flat();
    const unknown = all
      .filter((value) => !possible.has(value))
      .map((value) => `${final.node} holds ${value}, which nobody wrote`);
    const twice = all.length === new Set(all).size ? [] : [`${final.node} holds a value twice`];
    return [...unknown, ...twice];
  });
}

function unequalLists(finals: readonly Final[]): string[] {
  const [first, ...rest] = finals;
  if (first === undefined) return ["no node to look at"];
  const lists = new Set(finals.flatMap((final) => [...final.lists.keys()]));
  return rest.flatMap((final) =>
    [...lists]
      .filter((list) => String(first.lists.get(list) ?? []) !== String(final.lists.get(list) ?? []))
      .map((list) => `list ${list} differs between ${first.node} and ${final.node}`),
  );
}

function wrongOrders({ reads }: History, finals: readonly Final[]): string[] {
  const final = finals[0]?.lists ?? new Map<number, readonly number[]>();
  return reads
    .filter(({ list, values }) => !isPrefix(values, final.get(list) ?? []))
    .map(({ node, list }) => `what was read of list ${list} on ${node} is no beginning of the final list`);
}

function wrongSums({ sums }: History, expected: number): string[] {
  return sums
    .filter(({ sum }) => sum !== expected)
    .map(({ node, sum }) => `the accounts on ${node} summed up to ${sum}, not to ${expected}`);
}

export function sharedTerms(claims: readonly Claim[]): string[] {
  const leaders = new Map<number, Set<string>>();
  for (const { term, node } of claims) leaders.set(term, (leaders.get(term) ?? new Set()).add(node));
  return [...leaders]
    .filter(([, nodes]) => nodes.size > 1)
    .map(([term, nodes]) => `${[...nodes].sort().join(" and ")} both led term ${term}`);
}

/** The longest time without an acknowledgement that overlaps the time from `fromMs` to `toMs`. */
export function longestGapMs(ackTimesMs: readonly number[], fromMs: number, toMs: number): number {
  let longest = 0;
  let previous = fromMs;
  for (const at of ackTimesMs) {
    if (at < fromMs) {
      previous = at;
      continue;
    }
    if (previous > toMs) break;
    longest = Math.max(longest, at - previous);
    previous = at;
  }
  return previous < toMs ? Math.max(longest, toMs - previous) : longest;
}
