// A policy is a wish ("survive one zone"); applied to a list of nodes it gives a ruleset. Policies are plug-ins:
// pure functions of the nodes. Loading a user's module is a shell's work; everything else about it is here.

import { all, any, atLeast, maxRuleDepth, maxRuleSize, node, parseRule, type Rule } from "./rule.ts";
import { type CohortNode, checkRuleset, formatRuleset, type Json, type Ruleset } from "./ruleset.ts";
import { compareIds, type NodeId } from "./types.ts";

export type PolicyOptions = Readonly<Record<string, unknown>>;
type JsonOptions = { readonly [key: string]: Json };

/** What a policy says: per eligible leader a rule, as a tree or as its text. */
export type PolicyLeaders = Readonly<Record<string, Rule | string>>;

export interface Policy {
  readonly name: string;
  /** One line for an operator who chooses. */
  readonly summary: string;
  compile(nodes: readonly CohortNode[], options: PolicyOptions): { readonly leaders: PolicyLeaders };
}

export interface PolicyRefusal {
  readonly code: "unknown_policy" | "policy_refused" | "policy_impure" | "policy_result" | "ruleset_refused";
  readonly message: string;
}

export type CompiledPolicy =
  | { readonly ok: true; readonly ruleset: Ruleset }
  | { readonly ok: false; readonly refusals: readonly PolicyRefusal[] };

/** Thrown by a policy for nodes or options that it can't serve. */
export class PolicyError extends Error {}

function ids(nodes: readonly CohortNode[]): NodeId[] {
  return nodes.map((member) => member.id);
}

/** Nodes that option "ineligible" names are in the cohort but may not lead. */
function mayLead(nodes: readonly CohortNode[], options: PolicyOptions): CohortNode[] {
  const excluded = new Set(idList(options, "ineligible"));
  for (const id of excluded) {
    if (!nodes.some((member) => member.id === id)) {
      throw new PolicyError(`option "ineligible" names ${id}, which is no node`);
    }
  }
  return nodes.filter((member) => !excluded.has(member.id));
}

function idList(options: PolicyOptions, name: string): string[] {
  const value = options[name] ?? [];
  if (!Array.isArray(value) || value.some((item) => typeof item !== "string")) {
    throw new PolicyError(`option "${name}" is a list of node ids`);
  }
  return value;
}

function wholeNumber(options: PolicyOptions, name: string, fallback: number): number {
  const value = options[name] ?? fallback;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1) {
    throw new PolicyError(`option "${name}" is a whole number from 1 on`);
  }
  return value;
}

function perLeader(leaders: readonly CohortNode[], rule: (leader: CohortNode) => Rule): PolicyLeaders {
  return Object.fromEntries(leaders.map((leader) => [leader.id, rule(leader)]));
}

const majority: Policy = {
  name: "majority",
  summary: "more than half of the nodes hold every acknowledged transaction",
  compile(nodes, options) {
    const rule = simplify(atLeast(Math.floor(nodes.length / 2) + 1, ids(nodes).map(node)));
    return { leaders: perLeader(mayLead(nodes, options), () => rule) };
  },
};

const anyN: Policy = {
  name: "any-n",
  summary: "the leader and any n other nodes (option n, default 1) hold every acknowledged transaction",
  compile(nodes, options) {
    const n = wholeNumber(options, "n", 1);
    if (nodes.length < n + 1) {
      throw new PolicyError(`any-n with n = ${n} needs at least ${n + 1} nodes, there are ${nodes.length}`);
    }
    return {
      leaders: perLeader(mayLead(nodes, options), (leader) => {
        const others = ids(nodes).filter((id) => id !== leader.id);
        return all([node(leader.id), simplify(atLeast(n, others.map(node)))]);
      }),
    };
  },
};

function crossing(name: string, place: "zone" | "region"): Policy {
  return {
    name,
    summary: `the leader and a node in another ${place} hold every acknowledged transaction`,
    compile(nodes, options) {
      return {
        leaders: perLeader(mayLead(nodes, options), (leader) => {
          const elsewhere = nodes.filter((member) => member[place] !== leader[place]);
          if (elsewhere.length === 0) {
            throw new PolicyError(`${name}: no node outside of ${place} "${leader[place]}" of ${leader.id}`);
          }
          return all([node(leader.id), any(ids(elsewhere).map(node))]);
        }),
      };
    },
  };
}

const twoZones: Policy = {
  name: "two-zones",
  summary: "nodes in two different zones (option zones, default 2) hold every acknowledged transaction",
  compile(nodes, options) {
    const wanted = wholeNumber(options, "zones", 2);
    const zones = new Map<string, NodeId[]>();
    for (const member of nodes) {
      zones.set(member.zone, [...(zones.get(member.zone) ?? []), member.id]);
    }
    if (zones.size < wanted) {
      throw new PolicyError(`two-zones needs nodes in at least ${wanted} zones, there are ${zones.size}`);
    }
    const perZone = [...zones.keys()].sort(compareIds).map((zone) => any((zones.get(zone) ?? []).map(node)));
    const rule = simplify(atLeast(wanted, perZone));
    return { leaders: perLeader(mayLead(nodes, options), () => rule) };
  },
};

const explicit: Policy = {
  name: "explicit",
  summary: 'option leaders gives the rule of each node that may lead: {"n1": "2(n2,n3)"}',
  compile(_nodes, options) {
    const { leaders } = options;
    if (typeof leaders !== "object" || leaders === null || Array.isArray(leaders)) {
      throw new PolicyError('option "leaders" is an object of node id and rule text');
    }
    return { leaders: leaders as PolicyLeaders };
  },
};

function simplify(rule: Rule): Rule {
  const only = rule.kind === "atLeast" && rule.rules.length === 1 ? rule.rules[0] : undefined;
  return only ?? rule;
}

export const builtInPolicies: readonly Policy[] = [
  majority,
  anyN,
  crossing("cross-zone", "zone"),
  twoZones,
  crossing("cross-region", "region"),
  explicit,
];

export function findPolicy(name: string): Policy | undefined {
  return builtInPolicies.find((policy) => policy.name === name);
}

/** Recognises what a user's module exports: `name`, `compile`, and perhaps `summary`. */
export function policyFromModule(exports: unknown, path: string): Policy | PolicyRefusal {
  const module = typeof exports === "object" && exports !== null ? (exports as Record<string, unknown>) : {};
  const { compile, name, summary } = module;
  if (typeof compile !== "function") {
    return { code: "unknown_policy", message: `${path} exports no function "compile"` };
  }
  return {
    name: typeof name === "string" ? name : path,
    summary: typeof summary === "string" ? summary : `policy of ${path}`,
    compile: (nodes, options) => compile(nodes, options) as { leaders: PolicyLeaders },
  };
}

export interface CompileRequest {
  readonly policy: Policy;
  readonly nodes: readonly CohortNode[];
  readonly options?: PolicyOptions;
  readonly version: number;
}

/** Runs the policy twice, on separate frozen copies, and compares: it must be a pure function of the set of nodes. */
export function compilePolicy({ policy, nodes, options = {}, version }: CompileRequest): CompiledPolicy {
  const sorted = [...nodes].sort((a, b) => compareIds(a.id, b.id));
  const first = runPolicy(policy, sorted, options, version);
  const second = runPolicy(policy, sorted, options, version);
  if (!first.ok || !second.ok) {
    return first.ok ? second : first;
  }
  if (formatRuleset(first.ruleset) !== formatRuleset(second.ruleset)) {
    return refused("policy_impure", `policy ${policy.name} gave two different rulesets for the same nodes`);
  }
  const refusals = checkRuleset(first.ruleset);
  if (refusals.length > 0) {
    return { ok: false, refusals: refusals.map(({ message }) => ({ code: "ruleset_refused", message })) };
  }
  return first;
}

function refused(code: PolicyRefusal["code"], message: string): CompiledPolicy {
  return { ok: false, refusals: [{ code, message }] };
}

function runPolicy(
  policy: Policy,
  nodes: readonly CohortNode[],
  options: PolicyOptions,
  version: number,
): CompiledPolicy {
  let leaders: PolicyLeaders;
  try {
    leaders = policy.compile(
      deepFreeze(structuredClone(nodes)),
      deepFreeze(structuredClone(options)),
    ).leaders;
  } catch (error) {
    return refused("policy_refused", error instanceof Error ? error.message : String(error));
  }
  if (typeof leaders !== "object" || leaders === null) {
    return refused("policy_result", `policy ${policy.name} gave no "leaders"`);
  }
  const rules = new Map<NodeId, Rule>();
  for (const [id, given] of Object.entries(leaders)) {
    const text = typeof given === "string" ? given : ruleText(given, 1);
    if (text === null) {
      return refused("policy_result", `what policy ${policy.name} gave for leader ${id} is no rule`);
    }
    const parsed = parseRule(text);
    if (!parsed.ok) {
      return refused("policy_result", `the rule "${text}" of leader ${id} is not valid: ${parsed.message}`);
    }
    rules.set(id as NodeId, parsed.rule);
  }
  const kept = Object.keys(options).length === 0 ? {} : { options: structuredClone(options) as JsonOptions };
  return { ok: true, ruleset: { version, name: policy.name, cohort: nodes, leaders: rules, ...kept } };
}

/** A user's module may return anything: the text of a rule tree, or null when it is none. */
function ruleText(value: unknown, depth: number): string | null {
  if (typeof value !== "object" || value === null || depth > maxRuleDepth) {
    return null;
  }
  const { kind, id, k, rules } = value as Record<string, unknown>;
  if (kind === "node") {
    return typeof id === "string" ? id : null;
  }
  if (kind !== "atLeast" || typeof k !== "number" || !Array.isArray(rules) || rules.length > maxRuleSize) {
    return null;
  }
  const children = rules.map((rule) => ruleText(rule, depth + 1));
  return children.includes(null) ? null : `${k}(${children.join(",")})`;
}

function deepFreeze<Value>(value: Value): Value {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const child of Object.values(value)) {
      deepFreeze(child);
    }
  }
  return value;
}
