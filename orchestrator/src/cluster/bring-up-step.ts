// Pure: what is to be done next so that a new or stopped local cluster becomes whole.
import { type NodeId, nodeId } from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";
import { isStreaming } from "../view.ts";

export type BringUpStep =
  | { readonly kind: "wait"; readonly what: string }
  /** initdb, roles, extension. */
  | { readonly kind: "bootstrap"; readonly node: NodeId }
  /** The first leader, alone in ruleset 1. */
  | { readonly kind: "elect"; readonly node: NodeId }
  /** Copy the leader's data and stream from it, as a member. */
  | { readonly kind: "follow"; readonly nodes: readonly NodeId[]; readonly leader: NodeStatus }
  /** Everyone under the policy. */
  | { readonly kind: "changeRuleset"; readonly leader: NodeStatus; readonly version: number }
  | { readonly kind: "done"; readonly leader: NodeId; readonly missing: readonly NodeId[] };

export interface BringUpInput {
  /** All nodes of cluster.json, the first leads first. */
  readonly ids: readonly string[];
  readonly statuses: readonly NodeStatus[];
  /** Members of the ruleset in force; undefined when none is known. */
  readonly cohort: readonly string[] | undefined;
}

/** The node whose leadership of the newest term is established. */
export function leaderAmong(statuses: readonly NodeStatus[]): NodeStatus | undefined {
  return statuses
    .filter((status) => status.state === "leader")
    .reduce<NodeStatus | undefined>(
      (best, status) => (best === undefined || status.term > best.term ? status : best),
      undefined,
    );
}

function wait(what: string): BringUpStep {
  return { kind: "wait", what };
}

export function bringUpStep({ ids, statuses, cohort }: BringUpInput): BringUpStep {
  const first = ids[0];
  if (first === undefined) return wait("a node");
  const leader = leaderAmong(statuses);
  if (leader !== undefined) return withLeader(ids, statuses, leader, cohort);
  const silent = ids.filter((id) => !statuses.some((status) => status.node === id));
  if (cohort !== undefined) return wait("a leader");
  if (silent.length > 0) return wait(`the sidecars of ${silent.join(", ")}`);
  const withData = statuses.filter((status) => status.postgres !== "absent");
  if (withData.length === 0) return { kind: "bootstrap", node: nodeId(first) };
  const only = withData[0];
  // Others hold data: this is no new cluster, and only the orchestrators may choose a leader.
  if (withData.length > 1 || only === undefined || only.node !== first) return wait("a leader");
  const ready = only.postgres === "running" && only.state === "fenced" && only.consistent;
  return ready ? { kind: "elect", node: only.node } : wait(`Postgres of ${first}`);
}

function withLeader(
  ids: readonly string[],
  statuses: readonly NodeStatus[],
  leader: NodeStatus,
  cohort: readonly string[] | undefined,
): BringUpStep {
  const others = statuses.filter((status) => status.node !== leader.node && ids.includes(status.node));
  const usable = others.filter((status) => !status.operatorStopped);
  const outside = ids.filter((id) => cohort !== undefined && !cohort.includes(id));
  if (cohort === undefined || leader.ruleset === null) return wait("the first ruleset");
  if (outside.length > 0) {
    // Of nodes outside of the cohort: members get everything, which they must before their acks can count.
    const member = (id: string): boolean =>
      leader.followers.some((follower) => follower.node === id && follower.member);
    const idle = usable.filter(
      (status) =>
        outside.includes(status.node) &&
        !member(status.node) &&
        (status.postgres === "absent" || status.postgres === "running"),
    );
    if (idle.length > 0) return { kind: "follow", nodes: idle.map((status) => status.node), leader };
    const away = outside.filter((id) => !member(id));
    if (away.length > 0) return wait(`${away.join(", ")} to copy the data and stream`);
    return { kind: "changeRuleset", leader, version: leader.ruleset.version + 1 };
  }
  const missing = usable.filter((status) => !isStreaming(status, leader)).map((status) => status.node);
  if (missing.length > 0) return wait(`${missing.join(", ")} to stream from ${leader.node}`);
  const heard = new Set<string>(statuses.map((status) => status.node));
  const silent = ids.filter((id) => !heard.has(id));
  if (silent.length > 0) return wait(`the sidecars of ${silent.join(", ")}`);
  return {
    kind: "done",
    leader: leader.node,
    missing: others.filter((status) => status.operatorStopped).map((status) => status.node),
  };
}
