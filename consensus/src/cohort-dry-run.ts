// `--dry-run` of a change of the cohort: the steps that would follow each other if each succeeded at once.

import {
  type CohortChangeOptions,
  type CohortGoal,
  type CohortStep,
  defaultCohortChangeOptions,
  nextCohortStep,
  refused,
} from "./cohort-change.ts";
import { isLost, type NodeView, type Observation } from "./observation.ts";
import { assert, type NodeId, type Term } from "./types.ts";

export interface DryRun {
  readonly steps: readonly CohortStep[];
  /** How it would end: done, refused, or the wait that nothing here resolves. */
  readonly end: CohortStep;
}

/** `--dry-run`: what would be done if each step succeeded at once. */
export function dryRunCohortChange(
  goal: CohortGoal,
  observation: Observation,
  options: CohortChangeOptions = defaultCohortChangeOptions,
): DryRun {
  const steps: CohortStep[] = [];
  let seen = observation;
  for (let count = 0; count < 4 * (observation.nodes.size + 4); count += 1) {
    const step = nextCohortStep(goal, seen, options);
    if (step.kind === "done" || step.kind === "refused" || step.kind === "wait") {
      return { steps, end: step };
    }
    steps.push(step);
    seen = imagine(seen, step);
  }
  return { steps, end: refused("ruleset", "the steps would never end") };
}

type Action = Exclude<CohortStep, { kind: "done" | "wait" | "refused" }>;

function imagine(observation: Observation, step: Action): Observation {
  const nodes = new Map(observation.nodes);
  const change = (id: NodeId, make: (view: NodeView) => NodeView): void => {
    const observed = nodes.get(id);
    if (observed?.view) {
      nodes.set(id, { ...observed, view: make(observed.view) });
    }
  };
  const stream = (id: NodeId, leader: NodeId, term: Term, member: boolean): void => {
    const receiver = { state: "streaming" as const, timeline: term, lastMessageAgeMs: 0 };
    const copied = (view: NodeView): Partial<NodeView> =>
      view.postgres === "absent" ? { incarnation: `${id}-new` } : {};
    change(id, (view) => ({
      ...view,
      ...copied(view),
      postgres: "running",
      state: "follower",
      term,
      leader,
      receiver,
      wasLeader: false,
    }));
    change(leader, (view) => ({
      ...view,
      followers: [
        ...view.followers.filter((each) => each.node !== id),
        { node: id, member, timeline: term, replyAgeMs: 0, flushedLsn: view.flushedLsn ?? null },
      ],
    }));
  };
  switch (step.kind) {
    case "follow": {
      const view = nodes.get(step.node)?.view;
      const inForce = nodes.get(step.leader)?.view?.ruleset;
      const counts = view == null || inForce == null || !isLost(view, [inForce], step.node);
      stream(step.node, step.leader, step.term, step.member && counts);
      break;
    }
    case "changeRuleset":
      for (const id of nodes.keys()) {
        change(id, (view) => (view.postgres === "running" ? { ...view, ruleset: step.wanted } : view));
      }
      break;
    case "changeLeader": {
      const old = nodes.get(step.from)?.view;
      assert(old !== null && old !== undefined, "the leader is seen");
      const next = (old.term + 1) as Term;
      change(step.to, (view) => ({ ...view, state: "leader", term: next, leader: step.to, followers: [] }));
      for (const { node: id } of old.followers) {
        if (id !== step.to) {
          stream(id, step.to, next, true);
        }
      }
      stream(step.from, step.to, next, true);
      break;
    }
    case "stop":
      change(step.node, (view) => ({ ...view, postgres: "stopped", state: "", operatorStopped: true }));
      break;
    default:
      step satisfies never;
  }
  return { ...observation, nodes };
}
