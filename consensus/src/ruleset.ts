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
  /**
   * Which life of this node counts: a node that lost its disk comes back as another incarnation, and neither the old
   * one's reports nor the new one's acknowledgements count where the other is named. Absent: not distinguished.
   */
  readonly incarnation?: string;
  readonly properties?: Readonly<Record<string, Property>>;
}

/** A value of JSON: what can travel in a ruleset. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

/**
 * A ruleset on the way to another one says where it leads: whoever comes along can finish the change, or undo it by
 * asking for something else.
 */
export interface Intent {
  readonly policy: string;
  readonly options: { readonly [key: string]: Json };
  readonly nodes: readonly CohortNode[];
}

export interface Ruleset {
  readonly version: number;
  /** Name of the policy that made it. */
  readonly name: string;
  readonly cohort: readonly CohortNode[];
  readonly leaders: ReadonlyMap<NodeId, Rule>;
  /** The options that the policy was given, so that it can be applied again to other nodes. */
  readonly options?: { readonly [key: string]: Json };
  readonly intent?: Intent;
}

export type RulesetRefusalCode =
  | "not_json"
  | "newer_format"
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

/** Of the text. A text without one is of format 1; one of a higher format is refused rather than half understood. */
export const rulesetFormat = 1;

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

/** Rulesets never change; their texts are asked for often. */
const texts = new WeakMap<Ruleset, string>();

/** Canonical: the same ruleset has the same text, whatever order its parts were given in. ASCII only. */
export function formatRuleset(ruleset: Ruleset): string {
  let text = texts.get(ruleset);
  if (text === undefined) {
    text = rulesetText(ruleset);
    texts.set(ruleset, text);
  }
  return text;
}

function rulesetText(ruleset: Ruleset): string {
  const cohort = [...ruleset.cohort].sort((a, b) => compareIds(a.id, b.id)).map(canonicalNode);
  const leaders: Record<string, string> = {};
  for (const id of [...ruleset.leaders.keys()].sort(compareIds)) {
    const rule = ruleset.leaders.get(id);
    if (rule !== undefined) {
      leaders[id] = formatRule(rule);
    }
  }
  const { options, intent } = ruleset;
  const text = JSON.stringify({
    format: rulesetFormat,
    version: ruleset.version,
    name: ruleset.name,
    cohort,
    leaders,
    ...(options === undefined || Object.keys(options).length === 0 ? {} : { options: sortedJson(options) }),
    ...(intent === undefined ? {} : { intent: canonicalIntent(intent) }),
  });
  return text.replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function canonicalIntent({ policy, options, nodes }: Intent): Record<string, unknown> {
  const sorted = [...nodes].sort((a, b) => compareIds(a.id, b.id)).map(canonicalNode);
  return { policy, options: sortedJson(options), nodes: sorted };
}

function sortedJson(value: Json): Json {
  if (Array.isArray(value)) {
    return value.map(sortedJson);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const entries = Object.entries(value as { readonly [key: string]: Json });
  return Object.fromEntries(
    entries.sort(([a], [b]) => compareIds(a, b)).map(([key, each]) => [key, sortedJson(each)]),
  );
}

function canonicalNode(member: CohortNode): Record<string, unknown> {
  const properties = Object.entries(member.properties ?? {}).sort(([a], [b]) => compareIds(a, b));
  return {
    id: member.id,
    zone: member.zone,
    region: member.region,
    ...(member.priority === undefined ? {} : { priority: member.priority }),
    ...(member.incarnation === undefined ? {} : { incarnation: member.incarnation }),
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
  if (value.format !== undefined && value.format !== rulesetFormat) {
    return refusedRuleset(
      "newer_format",
      `the ruleset is of format ${JSON.stringify(value.format)}, this program knows ${rulesetFormat}: update it`,
    );
  }
  const cohort = readNodes(value.cohort);
  if ("refused" in cohort) {
    return refusedRuleset("bad_node", cohort.refused);
  }
  const leaders = new Map<NodeId, Rule>();
  for (const [id, ruleText] of Object.entries(value.leaders)) {
    const parsed = parseRule(typeof ruleText === "string" ? ruleText : "");
    if (!parsed.ok) {
      return refusedRuleset("bad_rule", `the rule of leader ${id} is not valid: ${parsed.message}`);
    }
    leaders.set(id as NodeId, parsed.rule);
  }
  const intent = value.intent === undefined ? undefined : readIntent(value.intent);
  const { options } = value;
  if (intent === null || (options !== undefined && !isRecord(options))) {
    return refusedRuleset("bad_shape", "options is an object, intent is {policy, options, nodes: []}");
  }
  const ruleset: Ruleset = {
    version: value.version,
    name: value.name,
    cohort: cohort.nodes,
    leaders,
    ...(options === undefined ? {} : { options: options as { readonly [key: string]: Json } }),
    ...(intent === undefined ? {} : { intent }),
  };
  const refusals = checkRuleset(ruleset);
  return refusals.length === 0 ? { ok: true, ruleset } : { ok: false, refusals };
}

function refusedRuleset(code: RulesetRefusalCode, message: string): CheckedRuleset {
  return { ok: false, refusals: [{ code, message }] };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function readNodes(items: readonly unknown[]): { nodes: CohortNode[] } | { refused: string } {
  const nodes: CohortNode[] = [];
  for (const item of items) {
    const member = readNode(item);
    if (member === null) {
      return {
        refused: `${JSON.stringify(item)} is no node: {id, zone, region, priority?, incarnation?, properties?}`,
      };
    }
    nodes.push(member);
  }
  return { nodes };
}

function readIntent(value: unknown): Intent | null {
  if (!isRecord(value) || typeof value.policy !== "string" || !isRecord(value.options)) {
    return null;
  }
  const read = Array.isArray(value.nodes) ? readNodes(value.nodes) : { refused: "no list" };
  return "refused" in read
    ? null
    : { policy: value.policy, options: value.options as Intent["options"], nodes: read.nodes };
}

function readNode(item: unknown): CohortNode | null {
  if (!isRecord(item) || typeof item.id !== "string" || typeof item.zone !== "string") {
    return null;
  }
  const { region = "", priority, incarnation, properties = {} } = item;
  if (
    typeof region !== "string" ||
    (priority !== undefined && typeof priority !== "number") ||
    (incarnation !== undefined && (typeof incarnation !== "string" || !isIncarnation(incarnation))) ||
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
    ...(incarnation === undefined ? {} : { incarnation }),
    ...(Object.keys(plain).length === 0 ? {} : { properties: plain }),
  };
}

/** Made by the sidecar, at random, with the data directory. */
export function isIncarnation(text: string): boolean {
  return /^[A-Za-z0-9._-]{1,64}$/.test(text);
}

/** The node's entry, when it is in the cohort. */
export function memberOf(ruleset: Ruleset, id: NodeId): CohortNode | undefined {
  return ruleset.cohort.find((member) => member.id === id);
}

/** Does this life of the node count under the ruleset? An entry without an incarnation stands for any. */
export function countsUnder(ruleset: Ruleset, id: NodeId, incarnation: string | null | undefined): boolean {
  const named = memberOf(ruleset, id)?.incarnation;
  return named === undefined || named === incarnation;
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
