// Which orchestrator acts first. They don't talk to each other, so the order follows from what all of them see:
// the zones of the cohort by name, the leader's zone last (it may be the one that is in trouble).

import type { Observed } from "./observation.ts";
import type { Ruleset } from "./ruleset.ts";
import { compareIds, type NodeId } from "./types.ts";

/** The zone of the newest claim to leadership, alive or dead. */
function leaderZone(rulesets: readonly Ruleset[], nodes: readonly Observed[]): string | undefined {
  const claims = nodes.filter(({ view }) => view !== null && (view.wasLeader || view.state === "leader"));
  claims.sort((a, b) => (b.view?.term ?? 0) - (a.view?.term ?? 0));
  const leader = claims[0]?.id;
  return leader === undefined ? undefined : zoneOf(rulesets, leader);
}

function zoneOf(rulesets: readonly Ruleset[], id: NodeId): string | undefined {
  return rulesets.flatMap((ruleset) => ruleset.cohort).find((member) => member.id === id)?.zone;
}

export function rankOf(zone: string, rulesets: readonly Ruleset[], nodes: readonly Observed[]): number {
  const zones = new Set(rulesets.flatMap((ruleset) => ruleset.cohort.map((member) => member.zone)));
  const last = leaderZone(rulesets, nodes);
  const order = [...zones].sort((a, b) => Number(a === last) - Number(b === last) || compareIds(a, b));
  const rank = order.indexOf(zone);
  return rank === -1 ? order.length : rank;
}
