// The leader method of a rules change: the leader writes a ruleset record, no term changes, nobody waits. This is
// the check before, and the request; durability under both rules is the leader's own work.

import { canFulfil, formatRule } from "./rule.ts";
import { checkRuleset, cohortIds, formatRuleset, memberOf, type Ruleset, sameRuleset } from "./ruleset.ts";
import type { NodeId, Term } from "./types.ts";

export interface RulesetChangeInput {
  readonly leader: NodeId;
  readonly term: Term;
  /** In force on the leader, applied. */
  readonly current: Ruleset;
  /** A change whose record is not durable yet. */
  readonly pending: Ruleset | null;
  readonly wanted: Ruleset;
  /** Nodes that stream from the leader now as members: a node that joins must get what is not committed yet. */
  readonly streaming: ReadonlySet<NodeId>;
  /** Do it although a new cohort node doesn't stream. */
  readonly force?: boolean;
}

export type RulesetChangeRefusalCode =
  | "not_valid"
  | "same"
  | "old_version"
  | "change_pending"
  | "leader_not_eligible"
  | "node_not_ready"
  | "replaced_node_needed";

export type RulesetChangePlan =
  | {
      readonly ok: true;
      readonly rule: string;
      readonly ruleset: { readonly version: number; readonly text: string };
    }
  | { readonly ok: false; readonly code: RulesetChangeRefusalCode; readonly message: string };

/** Nodes of both cohorts that are another life in the second. */
export function replacedNodes(current: Ruleset, wanted: Ruleset): NodeId[] {
  return wanted.cohort
    .filter(({ id, incarnation }) => {
      const before = memberOf(current, id);
      return before !== undefined && before.incarnation !== undefined && before.incarnation !== incarnation;
    })
    .map(({ id }) => id);
}

export function planRulesetChange(input: RulesetChangeInput): RulesetChangePlan {
  const { leader, current, wanted } = input;
  const refuse = (code: RulesetChangeRefusalCode, message: string): RulesetChangePlan => ({
    ok: false,
    code,
    message,
  });
  const problems = checkRuleset(wanted);
  if (problems.length > 0) {
    return refuse("not_valid", problems.map(({ message }) => message).join("; "));
  }
  if (sameRuleset(current, wanted)) {
    return refuse("same", `ruleset ${wanted.version} is in force already`);
  }
  if (input.pending !== null) {
    return refuse(
      "change_pending",
      `ruleset ${input.pending.version} is not durable yet; one change at a time`,
    );
  }
  if (wanted.version <= current.version) {
    return refuse(
      "old_version",
      `version ${wanted.version} is not above ${current.version}, which is in force`,
    );
  }
  const rule = wanted.leaders.get(leader);
  if (rule === undefined) {
    return refuse(
      "leader_not_eligible",
      `${leader} leads term ${input.term} and may not lead under the new ruleset: change the leader first`,
    );
  }
  const before = new Set(cohortIds(current));
  const unready = cohortIds(wanted).filter(
    (id) => id !== leader && !before.has(id) && !input.streaming.has(id),
  );
  if (unready.length > 0 && input.force !== true) {
    return refuse(
      "node_not_ready",
      `${unready.join(", ")} would join the cohort but doesn't stream from ${leader} as a member yet`,
    );
  }
  // A later life of a node counts once its own ruleset names it, thus only after this record is durable.
  const replaced = replacedNodes(current, wanted);
  if (replaced.length > 0 && input.force !== true) {
    const counting = new Set(input.streaming).add(leader);
    for (const id of replaced) {
      counting.delete(id);
    }
    const old = current.leaders.get(leader);
    if ((old !== undefined && !canFulfil(old, counting)) || !canFulfil(rule, counting)) {
      return refuse(
        "replaced_node_needed",
        `${replaced.join(", ")} lost its data, and without it ruleset ${wanted.version} could not become durable: take it out of the cohort first`,
      );
    }
  }
  return {
    ok: true,
    rule: formatRule(rule),
    ruleset: { version: wanted.version, text: formatRuleset(wanted) },
  };
}
