// What an orchestrator does about one node, or about a change of the cohort that stands still: one step at a time. The
// next look decides what comes next, here or in another orchestrator.
import { assertNever } from "@quorate/common";
import {
  type CohortGoal,
  type Decision,
  goalOfIntent,
  goalOfRepair,
  nextCohortStep,
  type Observation,
  type Policy,
} from "@quorate/consensus";
import {
  control,
  describeStep,
  follow,
  isAction,
  performStep,
  type StepTools,
} from "./shell/cohort-steps.ts";

export type Repair = Extract<Decision, { kind: "repair" }>;

export interface RepairResult {
  /** What was done, in words; undefined when there was nothing to do yet. */
  readonly did: string | undefined;
  readonly problem: string | undefined;
}

export async function repair(
  decision: Repair,
  observation: Observation,
  policies: readonly Policy[],
  tools: StepTools,
): Promise<RepairResult> {
  const { node, leader, action } = decision;
  const leading = observation.nodes.get(leader)?.view;
  if (leading === null || leading === undefined)
    return { did: undefined, problem: `${leader} isn't seen any more` };
  switch (action) {
    case "follow":
    case "create": {
      const problem = await follow(tools, {
        node,
        leader,
        term: leading.term,
        member: decision.member,
      });
      return { did: `pointed ${node} at ${leader}`, problem };
    }
    case "restart":
      return { did: `restarted Postgres of ${node}`, problem: await control(tools, node, "restart") };
    case "discard":
      return { did: `put the data of ${node} aside`, problem: await control(tools, node, "discard") };
    case "remake":
      return { did: `put the outdated data of ${node} aside`, problem: await control(tools, node, "remake") };
    case "replace":
    case "finish": {
      const { ruleset } = leading;
      if (ruleset === null) return { did: undefined, problem: `${leader} reports no ruleset` };
      const goal = action === "replace" ? goalOfRepair(ruleset, policies) : goalOfIntent(ruleset, policies);
      if (goal === null)
        return {
          did: undefined,
          problem: `policy ${ruleset.intent?.policy ?? ruleset.name} isn't known here`,
        };
      return step(goal, observation, tools);
    }
    default:
      return assertNever(action);
  }
}

async function step(goal: CohortGoal, observation: Observation, tools: StepTools): Promise<RepairResult> {
  const next = nextCohortStep(goal, observation);
  if (isAction(next)) return { did: describeStep(next), problem: await performStep(next, tools) };
  return { did: undefined, problem: next.kind === "refused" ? next.reason : undefined };
}
