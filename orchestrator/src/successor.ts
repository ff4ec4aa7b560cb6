// Pure: whom an operator's leader change means, and what to tell him when that one can't lead.
import { type NodeId, type Observation, successors } from "@quorate/consensus";
import { orchestratorErrors } from "./error-codes.ts";

export interface SuccessorInput {
  readonly observation: Observation;
  readonly leader: NodeId | undefined;
  /** The operator's choice. */
  readonly to?: string;
  /** How far each node has the log. */
  readonly flushed: ReadonlyMap<NodeId, bigint>;
}

export function chooseSuccessor(input: SuccessorInput): NodeId {
  const { observation, leader, to, flushed } = input;
  const able = successors(observation, leader, flushed);
  if (to === undefined) {
    const best = able[0];
    if (best !== undefined) return best;
    throw orchestratorErrors.error(
      "leader_change_failed",
      `no other node can lead at the moment: see "quorate status", and start what is down`,
    );
  }
  if (to === leader) {
    throw orchestratorErrors.error("bad_option", `${to} leads already: nothing to do`);
  }
  const chosen = able.find((id) => id === to);
  if (chosen !== undefined) return chosen;
  const known = [...observation.nodes.keys()].find((id) => id === to);
  const eligible = observation.rulesets.every((ruleset) =>
    [...ruleset.leaders.keys()].some((id) => id === to),
  );
  const choices = able.length === 0 ? "no other node can at the moment" : `choose one of ${able.join(", ")}`;
  const why =
    known !== undefined && !eligible ? "may not lead under the ruleset in force" : "is not in reach";
  throw orchestratorErrors.error("leader_change_failed", `${to} ${why}: ${choices}`);
}
