// The dumb second implementation: a rule as the explicit list of node groups that fulfil it. Explodes with size;
// shares nothing with src/rule.ts but the shape of the tree.

import type { Lsn, NodeId, Rule } from "../src/index.ts";

export type Groups = readonly ReadonlySet<string>[];

/** Every group of nodes, one child choice after the other, that fulfils the rule. */
export function groupsOf(rule: Rule): Groups {
  if (rule.kind === "node") {
    return [new Set([rule.id])];
  }
  let groups: ReadonlySet<string>[] = [];
  for (const chosen of subsets(rule.rules, rule.k)) {
    let partial: ReadonlySet<string>[] = [new Set<string>()];
    for (const child of chosen) {
      const childGroups = groupsOf(child);
      partial = partial.flatMap((left) => childGroups.map((right) => new Set([...left, ...right])));
    }
    groups = groups.concat(partial);
  }
  return groups;
}

export function subsets<Item>(items: readonly Item[], size: number): Item[][] {
  if (size === 0) {
    return [[]];
  }
  return items.flatMap((item, index) =>
    subsets(items.slice(index + 1), size - 1).map((rest) => [item, ...rest]),
  );
}

export function powerSet<Item>(items: readonly Item[]): Item[][] {
  return Array.from({ length: 2 ** items.length }, (_, bits) =>
    items.filter((_item, index) => (bits >> index) & 1),
  );
}

export function dumbFulfil(groups: Groups, nodes: ReadonlySet<string>): boolean {
  return groups.some((group) => [...group].every((id) => nodes.has(id)));
}

/** Blocked: no group is without one of the nodes. */
export function dumbBlock(groups: Groups, nodes: ReadonlySet<string>): boolean {
  return groups.every((group) => [...group].some((id) => nodes.has(id)));
}

export function dumbCommit(groups: Groups, flushed: ReadonlyMap<NodeId, Lsn>): bigint {
  let best = 0n;
  for (const candidate of flushed.values()) {
    const reached = new Set([...flushed].filter(([, lsn]) => lsn >= candidate).map(([id]) => id as string));
    if (candidate > best && dumbFulfil(groups, reached)) {
      best = candidate;
    }
  }
  return best;
}
