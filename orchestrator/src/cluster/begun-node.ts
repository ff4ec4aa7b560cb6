// Pure: which node an interrupted `quorate node add` or `node replace` had begun.
import type { ClusterFile } from "@quorate/sidecar/config.ts";
import type { ClusterNode } from "./files.ts";
import type { NewNode } from "./membership.ts";

export interface Seen {
  /** In any ruleset that is known; empty: none is. */
  readonly cohort: ReadonlySet<string>;
  /** They stream from the leader. */
  readonly followers: ReadonlySet<string>;
}

/**
 * A node that fits the wish and that is marked as being added, or is in cluster.json and not where it is to be. Marked it
 * may have got there meanwhile: by the orchestrators, or in the last step before the interruption.
 */
export function begunNode(
  file: Pick<ClusterFile, "nodes">,
  wish: NewNode,
  seen: Seen,
): ClusterNode | undefined {
  const fits = file.nodes.filter(
    (node) =>
      (wish.id === undefined || wish.id === node.id) &&
      (wish.zone === undefined || wish.zone === node.zone) &&
      (wish.observer === true) === (node.observer === true),
  );
  return fits.find((node) => node.adding === true) ?? fits.find((node) => isOutside(node, seen));
}

function isOutside({ id, observer }: ClusterNode, { cohort, followers }: Seen): boolean {
  if (cohort.size === 0 || cohort.has(id)) return false;
  return observer !== true || !followers.has(id);
}
