// Pure: whom an operator's leader change means when he names nobody, and whether the one he names can lead at all.
import { canBeRecruited, compareIds, type NodeId, type Observation, type Observed } from "@quorate/consensus";
import { orchestratorErrors } from "./error-codes.ts";

export interface SuccessorInput {
  readonly observation: Observation;
  readonly leader: NodeId | undefined;
  /** The operator's choice. */
  readonly to?: string;
  /** How far each node has the log. */
  readonly flushed: ReadonlyMap<NodeId, bigint>;
}

/** The nodes that may lead under every ruleset in force and can be recruited, the most advanced first. */
export function successors({ observation, leader, flushed }: SuccessorInput): NodeId[] {
  const { nodes, rulesets } = observation;
  const may = (id: NodeId): boolean => rulesets.every((ruleset) => ruleset.leaders.has(id));
  const streams = ({ view }: Observed): number =>
    view?.leader === leader && view?.receiver?.state === "streaming" ? 1 : 0;
  return [...nodes.values()]
    .filter((observed) => observed.id !== leader && may(observed.id) && canBeRecruited(observed))
    .sort(
      (a, b) =>
        streams(b) - streams(a) ||
        Number((flushed.get(b.id) ?? 0n) - (flushed.get(a.id) ?? 0n)) ||
        compareIds(a.id, b.id),
    )
    .map(({ id }) => id);
}

export function chooseSuccessor(input: SuccessorInput): NodeId {
  const { observation, leader, to } = input;
  const able = successors(input);
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
