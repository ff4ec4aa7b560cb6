/** What one node knows of the others, for whose turn it is and for how a backup reaches them. Pure. */
import type { NodeStatus } from "@quorate/proto";
import { type Gap, reportedGap } from "./archive-gap.ts";
import { readReport } from "./backup-report.ts";
import type { SeenNode } from "./backup-turn.ts";
import type { RemotePostgres } from "./pgbackrest-conf.ts";

/** This node, everybody in its ruleset, and the observers that the leader sees. */
export function seenNodes(
  own: NodeStatus,
  others: readonly NodeStatus[],
  reaches: (leader: string) => boolean,
  /** The repository is on one node's disk. */
  exclusive: boolean,
): SeenNode[] {
  const all = [own, ...others.filter(({ node }) => node !== own.node)];
  const leader = all
    .filter(({ state }) => state === "leader")
    .reduce<NodeStatus | undefined>(
      (best, each) => (best === undefined || each.term > best.term ? each : best),
      undefined,
    );
  if (leader === undefined) return [];
  const cohort = cohortOf(leader);
  const known: SeenNode[] = all.map((each) => {
    const report = readReport(each.backup);
    const role = each.node === leader.node ? "leader" : cohort.has(each.node) ? "follower" : "observer";
    return {
      id: each.node,
      role,
      able: report?.place.backsUp === true,
      healthy:
        report !== null &&
        (role === "leader" ||
          (streamsFrom(each, leader) && (each.node !== own.node || reaches(leader.node)))),
      busy: report?.running !== undefined && report.running !== null,
      failedAtMs: report?.lastRun?.ok === false ? Date.parse(report.lastRun.at) : null,
    };
  });
  const strangers = leader.followers
    .filter(({ node }) => !all.some((each) => each.node === node) && !cohort.has(node))
    .map(
      ({ node }): SeenNode => ({
        id: node,
        role: "observer",
        able: !exclusive,
        healthy: true,
        busy: false,
        failedAtMs: null,
      }),
    );
  return [...known, ...strangers];
}

/** Another node that sees backups in its repository: one that is empty here is then another place, or not mounted. */
export function whoSeesBackups(own: string, others: readonly NodeStatus[]): string | null {
  const seer = others.find(
    ({ node, backup }) => node !== own && (readReport(backup)?.repository?.count ?? 0) > 0,
  );
  return seer?.node ?? null;
}

/** The gap of the archive, of which only the leader knows. */
export function gapOfLeader(others: readonly NodeStatus[]): Gap | null {
  for (const { state, backup } of others) {
    const gap = state === "leader" ? reportedGap(readReport(backup)) : null;
    if (gap !== null) return gap;
  }
  return null;
}

/** When the newest backup ended that any other node has seen in the repository. */
export function newestSeenMs(others: readonly NodeStatus[]): number {
  const ends = others.map(({ backup }) => readReport(backup)?.repository?.newest?.stoppedAt);
  return Math.max(...ends.map((at) => (at === undefined ? Number.NEGATIVE_INFINITY : Date.parse(at))));
}

export function streamsFrom(node: NodeStatus, leader: NodeStatus): boolean {
  return (
    node.node !== leader.node &&
    node.leader === leader.node &&
    node.receiver?.state === "streaming" &&
    node.term === leader.term
  );
}

function cohortOf(leader: NodeStatus): ReadonlySet<string> {
  try {
    const { cohort } = JSON.parse(leader.ruleset?.text ?? "{}") as { cohort?: { id: string }[] };
    return new Set((cohort ?? []).map(({ id }) => id));
  } catch {
    return new Set();
  }
}

/** How a backup that is made here reaches another node's data; null: not at all. */
export function placeOf(
  other: NodeStatus,
  own: { readonly host: string; readonly tls: boolean },
): RemotePostgres | null {
  const report = readReport(other.backup);
  if (report === null) return null;
  const { dataDirectory, socketDirectory, tlsPort, conf } = report.place;
  const place = { dataDirectory, socketDirectory, port: other.pgPort };
  if (other.host === own.host) return place;
  if (!own.tls || tlsPort === null || conf === null) return null;
  return { ...place, tls: { host: other.host, port: tlsPort, conf } };
}
