// Between a coordinator's calls and a node's requests: what the wire would carry.

import {
  type Call,
  type CallResult,
  type NodeAnswer,
  type NodeId,
  type NodeRequest,
  parseRuleset,
  type RecordedRuleset,
  type Ruleset,
  type RulesetText,
  refusalToTell,
  reportFrom,
} from "@quorate/consensus";

/** What the wire would carry: texts become rulesets again at the coordinator. */
export function resultOf(node: NodeId, call: Call, answer: NodeAnswer): CallResult {
  switch (answer.kind) {
    case "refused":
      return { kind: "refused", refusal: refusalToTell(answer.refusal) };
    case "recruited":
      return { kind: "recruited", report: reportFrom(node, answer.report, readRecordedRuleset) };
    case "position":
      return { kind: call.method === "fetch" ? "fetched" : "elected", position: answer.position };
    case "done":
      return { kind: "following" };
    default:
      return answer satisfies never;
  }
}

function readRecordedRuleset(text: RulesetText): RecordedRuleset {
  const { recordedAt } = text;
  return { ...readRuleset(text), ...(recordedAt === undefined ? {} : { recordedAt }) };
}

const maxRead = 200;
const read = new Map<string, Ruleset>();

/** The same text is read again and again, by many coordinators. */
export function readRuleset(text: RulesetText): Ruleset {
  const known = read.get(text.text);
  if (known !== undefined) {
    return known;
  }
  if (read.size >= maxRead) {
    read.clear();
  }
  const ruleset = parsed(text);
  read.set(text.text, ruleset);
  return ruleset;
}

function parsed(text: RulesetText): Ruleset {
  const checked = parseRuleset(text.text);
  if (!checked.ok) {
    throw new Error(`the log holds a ruleset that is not valid: ${text.text}`);
  }
  return checked.ruleset;
}

export function requestOf(call: Call): NodeRequest {
  const { term, coordinator } = call;
  switch (call.method) {
    case "recruit":
      return { kind: "recruit", term, coordinator, reason: call.reason };
    case "fetch":
      return { kind: "fetch", term, coordinator, from: call.from, target: call.target };
    case "elect":
      return { kind: "elect", term, coordinator, rule: call.rule, joint: call.joint, ruleset: call.ruleset };
    case "follow":
      return {
        kind: "follow",
        term,
        coordinator,
        leader: call.leader,
        member: call.member,
        ...(call.counts === undefined ? {} : { counts: call.counts }),
      };
    default:
      return call satisfies never;
  }
}
