// A ruleset is one versioned decision of the log: who belongs to the cohort, and for each node that may lead,
// what makes a record durable under it.

import { checkRule, formatRule, parseRule, type Rule, ruleNodes } from "./rule.ts";
import { compareIds, isNodeId, type NodeId } from "./types.ts";

export type Property = string | number | boolean;

/** Static properties only: a rule may depend on them, never on load or time. */
export interface CohortNode {
  readonly id: NodeId;
  readonly zone: string;
  readonly region: string;
  /** Higher is preferred among equally advanced candidates. */
  readonly priority?: number;
  readonly properties?: Readonly<Record<string, Property>>;
}

export interface Ruleset {
  readonly version: number;
  /** Name of the policy that made it. */
  readonly name: string;
  readonly cohort: readonly CohortNode[];
  readonly leaders: ReadonlyMap<NodeId, Rule>;
}

export type RulesetRefusalCode =
  | "not_json"
  | "bad_shape"
  | "bad_version"
  | "bad_node"
  | "duplicate_node"
  | "empty_cohort"
  | "no_leader"
  | "leader_not_in_cohort"
  | "unknown_node_in_rule"
  | "bad_rule"
  | "too_large";

export interface RulesetRefusal {
  readonly code: RulesetRefusalCode;
  readonly message: string;
}

export type CheckedRuleset =
  | { readonly ok: true; readonly ruleset: Ruleset }
  | { readonly ok: false; readonly refusals: readonly RulesetRefusal[] };

/** The extension stores the text in one WAL record. */
export const maxRulesetTextBytes = 65_536;

/** All reasons why the ruleset is not sensible; empty when it is. */
export function checkRuleset(ruleset: Ruleset): RulesetRefusal[] {
  const refusals: RulesetRefusal[] = [];
  const refuse = (code: RulesetRefusalCode, message: string) => refusals.push({ code, message });
  if (!Number.isSafeInteger(ruleset.version) || ruleset.version < 1) {
    refuse("bad_version", `a ruleset's version is a whole number from 1 on, not ${ruleset.version}`);
  }
  const cohort = new Set<NodeId>();
  for (const member of ruleset.cohort) {
    if (!isNodeId(member.id)) {
      refuse("bad_node", `"${member.id}" is no node id`);
    }
    if (cohort.has(member.id)) {
      refuse("duplicate_node", `node ${member.id} is in the cohort twice`);
    }
    cohort.add(member.id);
  }
  if (cohort.size === 0) {
    refuse("empty_cohort", "a ruleset needs at least one node");
  }
  if (ruleset.leaders.size === 0) {
    refuse("no_leader", "no node of the cohort may lead");
  }
  for (const [leader, rule] of ruleset.leaders) {
    if (!cohort.has(leader)) {
      refuse("leader_not_in_cohort", `${leader} may lead but is not in the cohort`);
    }
    const problem = checkRule(rule);
    if (problem !== null) {
      refuse("bad_rule", `the rule of leader ${leader} is not valid: ${problem}`);
    }
    const unknown = ruleNodes(rule).filter((id) => !cohort.has(id));
    if (unknown.length > 0) {
      refuse(
        "unknown_node_in_rule",
        `the rule of leader ${leader} names ${unknown.join(", ")}, not in the cohort`,
      );
    }
  }
  if (refusals.length === 0 && formatRuleset(ruleset).length > maxRulesetTextBytes) {
    refuse("too_large", `the ruleset's text is longer than ${maxRulesetTextBytes} bytes`);
  }
  return refusals;
}

/** Canonical: the same ruleset has the same text, whatever order its parts were given in. ASCII only. */
export function formatRuleset(ruleset: Ruleset): string {
  const cohort = [...ruleset.cohort].sort((a, b) => compareIds(a.id, b.id)).map(canonicalNode);
  const leaders: Record<string, string> = {};
  for (const id of [...ruleset.leaders.keys()].sort(compareIds)) {
    const rule = ruleset.leaders.get(id);
    if (rule !== undefined) {
      leaders[id] = formatRule(rule);
    }
  }
  const text = JSON.stringify({ version: ruleset.version, name: ruleset.name, cohort, leaders });
  return text.replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function canonicalNode(member: CohortNode): Record<string, unknown> {
  const properties = Object.entries(member.properties ?? {}).sort(([a], [b]) => compareIds(a, b));
  return {
    id: member.id,
    zone: member.zone,
    region: member.region,
    ...(member.priority === undefined ? {} : { priority: member.priority }),
    ...(properties.length === 0 ? {} : { properties: Object.fromEntries(properties) }),
  };
}

/** Reads and checks the text that travels through the log. */
export function parseRuleset(text: string): CheckedRuleset {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return refusedRuleset("not_json", "the ruleset is no JSON text");
  }
  if (
    !isRecord(value) ||
    !Array.isArray(value.cohort) ||
    !isRecord(value.leaders) ||
    typeof value.name !== "string"
  ) {
    return refusedRuleset("bad_shape", "a ruleset is {version, name, cohort: [], leaders: {}}");
  }
  if (typeof value.version !== "number") {
    return refusedRuleset("bad_version", "a ruleset needs a version");
  }
  const cohort: CohortNode[] = [];
  for (const item of value.cohort) {
    const member = readNode(item);
    if (member === null) {
      return refusedRuleset(
        "bad_node",
        `${JSON.stringify(item)} is no node: {id, zone, region, priority?, properties?}`,
      );
    }
    cohort.push(member);
  }
  const leaders = new Map<NodeId, Rule>();
  for (const [id, ruleText] of Object.entries(value.leaders)) {
    const parsed = parseRule(typeof ruleText === "string" ? ruleText : "");
    if (!parsed.ok) {
      return refusedRuleset("bad_rule", `the rule of leader ${id} is not valid: ${parsed.message}`);
    }
    leaders.set(id as NodeId, parsed.rule);
  }
  const ruleset: Ruleset = { version: value.version, name: value.name, cohort, leaders };
  const refusals = checkRuleset(ruleset);
  return refusals.length === 0 ? { ok: true, ruleset } : { ok: false, refusals };
}

function refusedRuleset(code: RulesetRefusalCode, message: string): CheckedRuleset {
  return { ok: false, refusals: [{ code, message }] };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function readNode(item: unknown): CohortNode | null {
  if (!isRecord(item) || typeof item.id !== "string" || typeof item.zone !== "string") {
    return null;
  }
  const { region = "", priority, properties = {} } = item;
  if (
    typeof region !== "string" ||
    (priority !== undefined && typeof priority !== "number") ||
    !isRecord(properties)
  ) {
    return null;
  }
  const plain: Record<string, Property> = {};
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") {
      return null;
    }
    plain[key] = value;
  }
  return {
    id: item.id as NodeId,
    zone: item.zone,
    region,
    ...(priority === undefined ? {} : { priority }),
    ...(Object.keys(plain).length === 0 ? {} : { properties: plain }),
  };
}

export function cohortIds(ruleset: Ruleset): NodeId[] {
  return ruleset.cohort.map((member) => member.id);
}

export function eligibleLeaders(ruleset: Ruleset): NodeId[] {
  return [...ruleset.leaders.keys()].sort(compareIds);
}

export function sameRuleset(a: Ruleset, b: Ruleset): boolean {
  return formatRuleset(a) === formatRuleset(b);
}

/** Each different ruleset once, in the order given. */
export function distinctRulesets(rulesets: readonly Ruleset[]): Ruleset[] {
  const seen = new Map<string, Ruleset>();
  for (const ruleset of rulesets) {
    const text = formatRuleset(ruleset);
    if (!seen.has(text)) {
      seen.set(text, ruleset);
    }
  }
  return [...seen.values()];
}

/** Every node that any of the rulesets names. */
export function allNodes(rulesets: readonly Ruleset[]): NodeId[] {
  return [...new Set(rulesets.flatMap(cohortIds))].sort(compareIds);
}
