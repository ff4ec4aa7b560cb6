// Rulesets for scripts, by number, so that a script stays plain data: the built-in policies, the examples of the
// papers, and rules that nobody would choose.

import {
  atLeast,
  type CohortNode,
  compilePolicy,
  findPolicy,
  type Json,
  type NodeId,
  node,
  type Policy,
  type Rule,
  type Ruleset,
} from "@quorate/consensus";
import { Random } from "./random.ts";

/** Policies by number; null when the nodes don't fit. Numbers, so that a script stays plain data. */
export function rulesetOf(policy: number, nodes: readonly CohortNode[], version: number): Ruleset | null {
  if (policy >= randomRules) {
    return randomRuleset(policy, nodes, version);
  }
  const chosen = policyOf(policy, nodes);
  if (chosen === null) {
    return null;
  }
  const compiled = compilePolicy({ ...chosen, nodes, version });
  return compiled.ok ? compiled.ruleset : null;
}

export interface NumberedPolicy {
  readonly policy: Policy;
  readonly options: { readonly [key: string]: Json };
}

/** Below `randomRules`. */
export function policyOf(policy: number, nodes: readonly CohortNode[]): NumberedPolicy | null {
  const names = ["majority", "any-n", "cross-zone", "two-zones", "majority", "explicit", "explicit"];
  const kind = policy % names.length;
  const found = findPolicy(names[kind] ?? "majority");
  if (found === undefined || nodes.length === 0) {
    return null;
  }
  let options: { readonly [key: string]: Json } = {};
  const ids = nodes.map((member) => member.id).sort();
  const [first, second, third, ...rest] = ids;
  if (names[kind] === "any-n") {
    options = { n: 1 + ((policy >> 3) % 2) };
  } else if (kind === 4 && nodes.length > 2) {
    options = { ineligible: [ids.at(-1) ?? ""] };
  } else if (kind === 5) {
    // The six-node example: the leader is no leaf of its own rule.
    if (first === undefined || second === undefined || third === undefined || rest.length < 2) {
      return null;
    }
    const [fourth, ...last] = rest;
    options = { leaders: { [first]: `2(${second},${third})`, [fourth ?? first]: `1(${last.join(",")})` } };
  } else if (kind === 6) {
    if (second === undefined || first === undefined) {
      return null;
    }
    options = { leaders: { [first]: second, [second]: `1(${[first, third ?? first].join(",")})` } };
  }
  return { policy: found, options };
}

export const randomRules = 1_000;

/** Rules that nobody would choose: any threshold trees over any of the nodes, another for each leader. */
function randomRuleset(policy: number, nodes: readonly CohortNode[], version: number): Ruleset | null {
  const random = Random.stream(policy, "rules");
  const ids = nodes.map((member) => member.id);
  const tree = (depth: number): Rule => {
    if (depth === 0 || random.chance(0.5)) {
      return node(random.pick(ids));
    }
    const rules = Array.from({ length: 1 + random.below(4) }, () => tree(depth - 1));
    return atLeast(1 + random.below(rules.length), rules);
  };
  const leaders = new Map<NodeId, Rule>();
  for (const id of ids) {
    if (random.chance(0.7)) {
      leaders.set(id, tree(2));
    }
  }
  return leaders.size === 0 ? null : { version, name: `random-${policy}`, cohort: nodes, leaders };
}
