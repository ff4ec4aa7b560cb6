// A durability rule is a monotone threshold tree. One evaluator answers three questions: how far is the log
// durable (commitLsn), could these nodes make something durable (canFulfil), could these nodes, by refusing,
// keep everybody else from it (canBlock). The same tree is evaluated in C on every ack; testdata/rules.txt
// holds both to the same answers.

import { assertNever, isNodeId, type Lsn, type NodeId, noLsn } from "./types.ts";

export type Rule =
  | { readonly kind: "node"; readonly id: NodeId }
  | { readonly kind: "atLeast"; readonly k: number; readonly rules: readonly Rule[] };

export const maxRuleDepth = 16;
export const maxRuleSize = 1000;

export function node(id: NodeId): Rule {
  return { kind: "node", id };
}

export function atLeast(k: number, rules: readonly Rule[]): Rule {
  return { kind: "atLeast", k, rules };
}

export function all(rules: readonly Rule[]): Rule {
  return simplest(atLeast(rules.length, rules));
}

export function any(rules: readonly Rule[]): Rule {
  return simplest(atLeast(1, rules));
}

function simplest(rule: Rule): Rule {
  const only = rule.kind === "atLeast" && rule.rules.length === 1 ? rule.rules[0] : undefined;
  return only ?? rule;
}

/** syntax: not of the grammar; threshold: k is 0 or above the number of children; depth and size: over the limits. */
export type RuleRefusalReason = "syntax" | "threshold" | "depth" | "size";

export type ParsedRule =
  | { readonly ok: true; readonly rule: Rule }
  | { readonly ok: false; readonly reason: RuleRefusalReason; readonly at: number; readonly message: string };

class RuleSyntaxError extends Error {
  readonly reason: RuleRefusalReason;
  readonly at: number;
  constructor(reason: RuleRefusalReason, at: number, message: string) {
    super(message);
    this.reason = reason;
    this.at = at;
  }
}

const tokenPattern = /[a-z0-9_-]+/y;

class RuleReader {
  readonly text: string;
  at = 0;
  size = 0;

  constructor(text: string) {
    this.text = text;
  }

  rule(depth: number): Rule {
    if (depth > maxRuleDepth) {
      throw new RuleSyntaxError("depth", this.at, `a rule is at most ${maxRuleDepth} levels deep`);
    }
    this.size += 1;
    if (this.size > maxRuleSize) {
      throw new RuleSyntaxError("size", this.at, `a rule has at most ${maxRuleSize} nodes and thresholds`);
    }
    const start = this.at;
    tokenPattern.lastIndex = start;
    const token = tokenPattern.exec(this.text)?.[0];
    if (token === undefined) {
      throw new RuleSyntaxError("syntax", start, "expected a node id or a threshold");
    }
    this.at = start + token.length;
    if (this.text[this.at] !== "(") {
      if (!isNodeId(token)) {
        throw new RuleSyntaxError("syntax", start, `"${token}" is no node id`);
      }
      return { kind: "node", id: token };
    }
    return this.#threshold(token, start, depth);
  }

  #threshold(token: string, start: number, depth: number): Rule {
    if (!/^(0|[1-9][0-9]*)$/.test(token)) {
      throw new RuleSyntaxError("syntax", start, `"${token}" is no threshold`);
    }
    const rules: Rule[] = [];
    do {
      this.at += 1;
      rules.push(this.rule(depth + 1));
    } while (this.text[this.at] === ",");
    if (this.text[this.at] !== ")") {
      throw new RuleSyntaxError("syntax", this.at, 'expected "," or ")"');
    }
    this.at += 1;
    const k = token.length > 4 ? Number.POSITIVE_INFINITY : Number(token);
    if (k < 1 || k > rules.length) {
      throw new RuleSyntaxError("threshold", start, `threshold ${token} of ${rules.length}`);
    }
    return { kind: "atLeast", k, rules };
  }
}

/** Reads the compact text of docs/control-socket.md: `2(n1,n2,n3)`. */
export function parseRule(text: string): ParsedRule {
  const reader = new RuleReader(text);
  try {
    const rule = reader.rule(1);
    if (reader.at !== text.length) {
      throw new RuleSyntaxError("syntax", reader.at, `unexpected "${text[reader.at]}"`);
    }
    return { ok: true, rule };
  } catch (error) {
    if (error instanceof RuleSyntaxError) {
      return {
        ok: false,
        reason: error.reason,
        at: error.at,
        message: `${error.message} (at character ${error.at})`,
      };
    }
    throw error;
  }
}

export function formatRule(rule: Rule): string {
  switch (rule.kind) {
    case "node":
      return rule.id;
    case "atLeast":
      return `${rule.k}(${rule.rules.map(formatRule).join(",")})`;
    default:
      return assertNever(rule);
  }
}

/** The highest LSN that the rule calls durable, given what each node has flushed in this term. Unknown nodes have 0. */
export function commitLsn(rule: Rule, flushed: ReadonlyMap<NodeId, Lsn>): Lsn {
  switch (rule.kind) {
    case "node":
      return flushed.get(rule.id) ?? noLsn;
    case "atLeast": {
      const children = rule.rules.map((child) => commitLsn(child, flushed));
      children.sort((a, b) => (a < b ? 1 : a > b ? -1 : 0));
      return children[rule.k - 1] ?? noLsn;
    }
    default:
      return assertNever(rule);
  }
}

export interface NodeSet {
  has(id: NodeId): boolean;
}

function holds(rule: Rule, leaf: (id: NodeId) => boolean): boolean {
  switch (rule.kind) {
    case "node":
      return leaf(rule.id);
    case "atLeast": {
      let missing = rule.k;
      for (const child of rule.rules) {
        if (holds(child, leaf)) {
          missing -= 1;
          if (missing === 0) {
            return true;
          }
        }
      }
      return false;
    }
    default:
      return assertNever(rule);
  }
}

/** Could these nodes alone make something durable? */
export function canFulfil(rule: Rule, nodes: NodeSet): boolean {
  return holds(rule, (id) => nodes.has(id));
}

/** If these nodes refuse, can the others no longer make anything durable? */
export function canBlock(rule: Rule, nodes: NodeSet): boolean {
  return !holds(rule, (id) => !nodes.has(id));
}

/** The nodes that the rule names, each once, in the order of the text. */
export function ruleNodes(rule: Rule): NodeId[] {
  const found = new Set<NodeId>();
  const visit = (child: Rule): void => {
    if (child.kind === "node") {
      found.add(child.id);
    } else {
      for (const grandchild of child.rules) {
        visit(grandchild);
      }
    }
  };
  visit(rule);
  return [...found];
}

/** Null when the rule may go to a Postgres; else why not. For rules that were built rather than parsed. */
export function checkRule(rule: Rule): string | null {
  const parsed = parseRule(formatRule(rule));
  return parsed.ok ? null : parsed.message;
}
