// Performs one step of a change of the cohort (the core's cohort-change.ts decides which). Used by the orchestrators'
// repairs and by the CLI; whoever comes along can go on with what another began, so nothing is remembered here.
import { assertNever } from "@quorate/common";
import type { CohortStep, CoordinatorId, NodeId, Term } from "@quorate/consensus";
import type { NodeDirectory } from "./coordinator-shell.ts";

export interface StepTools {
  readonly directory: NodeDirectory;
  readonly coordinator: CoordinatorId;
  /** A planned leader change; undefined when it worked, else why not. */
  readonly changeLeader: (from: NodeId, to: NodeId, reason: string) => Promise<string | undefined>;
}

export type CohortAction = Exclude<CohortStep, { kind: "done" | "wait" | "refused" }>;

const rulesetTimeoutMs = 15_000;
const followTimeoutMs = 30_000;
/** Another coordinator asked for the same, or the leader is busy with a change: look again at what is in force. */
const notMine: ReadonlySet<string> = new Set(["wrong_state"]);

export function isAction(step: CohortStep): step is CohortAction {
  return step.kind !== "done" && step.kind !== "wait" && step.kind !== "refused";
}

/** undefined when the step was taken (or is another's business by now); else why not. */
export async function performStep(step: CohortAction, tools: StepTools): Promise<string | undefined> {
  switch (step.kind) {
    case "follow":
      return follow(tools, step);
    case "changeRuleset": {
      const { leader, term, rule, ruleset } = step;
      const client = tools.directory.client(leader);
      if (client === undefined) return `the address of ${leader} isn't known`;
      const reply = await client.changeRuleset({ term, rule, ruleset, timeoutMs: rulesetTimeoutMs });
      if (reply.ok || notMine.has(reply.refusal.code)) return undefined;
      return `${reply.refusal.code}: ${reply.refusal.message}`;
    }
    case "changeLeader":
      return tools.changeLeader(step.from, step.to, step.reason);
    case "stop":
      return control(tools, step.node, "stop");
    default:
      return assertNever(step);
  }
}

export interface FollowOrder {
  readonly node: NodeId;
  readonly leader: NodeId;
  readonly term: Term;
  readonly member: boolean;
}

export async function follow(tools: StepTools, order: FollowOrder): Promise<string | undefined> {
  const { node, leader, term, member } = order;
  const client = tools.directory.client(node);
  const endpoint = tools.directory.endpoint(leader);
  if (client === undefined) return `the address of ${node} isn't known`;
  if (endpoint === undefined) return `the address of ${leader} isn't known`;
  const request = { term, coordinator: tools.coordinator, leader, ...endpoint, member };
  const reply = await client.follow(request, { deadlineMs: followTimeoutMs });
  return reply.ok ? undefined : `${reply.refusal.code}: ${reply.refusal.message}`;
}

export async function control(
  tools: Pick<StepTools, "directory">,
  node: NodeId,
  action: "stop" | "restart" | "discard" | "remake",
): Promise<string | undefined> {
  const client = tools.directory.client(node);
  if (client === undefined) return `the address of ${node} isn't known`;
  const reply = await client.control({ action });
  return reply.ok ? undefined : `${reply.refusal.code}: ${reply.refusal.message}`;
}

/** In words, for --dry-run and for the log. */
export function describeStep(step: CohortStep): string {
  switch (step.kind) {
    case "follow":
      return `point ${step.node} at ${step.leader}: ${step.reason}`;
    case "changeRuleset":
      return `write ruleset ${step.ruleset.version} through ${step.leader}: ${step.reason}`;
    case "changeLeader":
      return `hand leadership over from ${step.from} to ${step.to}: ${step.reason}`;
    case "stop":
      return `stop Postgres of ${step.node}: ${step.reason}`;
    case "done":
    case "wait":
    case "refused":
      return `${step.kind}: ${step.reason}`;
    default:
      return assertNever(step);
  }
}
