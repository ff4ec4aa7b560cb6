// Pure: what the nodes say about themselves becomes one picture of the cluster, for people and for --json.
import { formatLsn } from "@quorate/consensus/types.ts";
import type { NodeStatus } from "@quorate/proto";
import {
  type BackupPicture,
  backupPicture,
  formatBackupPicture,
  formatBytes,
  readReport,
} from "@quorate/sidecar/backup/backup-report.ts";

/** A node as the files know it, with what its sidecar answered (undefined: it didn't). */
export interface Sighting {
  readonly id: string;
  readonly zone: string;
  readonly host: string;
  readonly port: number;
  readonly poolerPort?: number;
  readonly status: NodeStatus | undefined;
  readonly problem?: string;
}

export interface NodePicture {
  readonly id: string;
  readonly zone: string;
  readonly region: string | null;
  /** leader | candidate | follower | fenced | observer | down | unknown */
  readonly role: string;
  readonly term: number | null;
  readonly promisedTerm: number | null;
  readonly postgres: string;
  readonly state: string | null;
  readonly pid: number | null;
  readonly host: string;
  readonly port: number;
  readonly grpcPort: number | null;
  readonly httpPort: number | null;
  /** Of the node's own gateway; null: it has none. */
  readonly poolerPort: number | null;
  readonly leader: string | null;
  readonly streaming: boolean;
  readonly receivedLsn: string | null;
  readonly flushedLsn: string | null;
  readonly appliedLsn: string | null;
  readonly commitLsn: string | null;
  /** Which life of the node its data is; null: no data, or not distinguished. */
  readonly incarnation: string | null;
  /** False: the ruleset names another life of this node, so that nothing from here counts. */
  readonly counts: boolean;
  readonly operatorStopped: boolean;
  /** While its data is made: from "backup", then "archive", or from another node. */
  readonly clone: { readonly from: string; readonly doneBytes: number; readonly totalBytes: number } | null;
  readonly lastExit: string | null;
  readonly problem: string | null;
}

export interface ClusterPicture {
  readonly cluster: string;
  readonly leader: string | null;
  readonly term: number;
  readonly commitLsn: string | null;
  readonly ruleset: {
    readonly version: number;
    readonly policy: string;
    readonly cohort: readonly string[];
    /** The lives that count; a node that isn't named here counts whichever it is. */
    readonly incarnations: Readonly<Record<string, string>>;
    readonly leaders: Readonly<Record<string, string>>;
  } | null;
  readonly nodes: readonly NodePicture[];
  /** Null: the cluster makes no backups, or nobody answers. */
  readonly backup: BackupPicture | null;
}

const lsn = (value: NodeStatus["commitLsn"]): string | null => (value === null ? null : formatLsn(value));

export function pictureOf(cluster: string, sightings: readonly Sighting[]): ClusterPicture {
  const heard = sightings.flatMap(({ status }) => (status === undefined ? [] : [status]));
  const leader = highest(
    heard.filter((status) => status.state === "leader"),
    (status) => status.term,
  );
  const newest = highest(heard, (status) => status.ruleset?.version ?? 0)?.ruleset ?? null;
  const ruleset = newest === null ? null : readRuleset(newest);
  const commits = heard.flatMap(({ commitLsn }) => (commitLsn === null ? [] : [commitLsn]));
  const commitLsn = leader?.commitLsn ?? commits.reduce<bigint | null>(max, null);
  return {
    cluster,
    leader: leader?.node ?? null,
    term: leader?.term ?? heard.reduce((term, status) => Math.max(term, status.term), 0),
    commitLsn: lsn(commitLsn as NodeStatus["commitLsn"]),
    ruleset,
    nodes: sightings.map((sighting) => pictureOfNode(sighting, leader, ruleset)),
    backup: backupPicture(heard.map(({ node, backup }) => ({ node, report: readReport(backup) }))),
  };
}

function max(a: bigint | null, b: bigint): bigint {
  return a === null || b > a ? b : a;
}

function highest<T>(items: readonly T[], key: (item: T) => number): T | undefined {
  return items.reduce<T | undefined>(
    (best, item) => (best === undefined || key(item) > key(best) ? item : best),
    undefined,
  );
}

function readRuleset(ruleset: { version: number; text: string }): ClusterPicture["ruleset"] {
  const { version, text } = ruleset;
  try {
    const parsed = JSON.parse(text) as {
      name?: string;
      cohort?: { id: string; incarnation?: string }[];
      leaders?: Record<string, string>;
    };
    const cohort = parsed.cohort ?? [];
    return {
      version,
      policy: parsed.name ?? "unknown",
      cohort: cohort.map(({ id }) => id),
      incarnations: Object.fromEntries(
        cohort.flatMap(({ id, incarnation }) => (incarnation === undefined ? [] : [[id, incarnation]])),
      ),
      leaders: parsed.leaders ?? {},
    };
  } catch {
    return { version, policy: "unreadable", cohort: [], incarnations: {}, leaders: {} };
  }
}

function pictureOfNode(
  sighting: Sighting,
  leader: NodeStatus | undefined,
  ruleset: ClusterPicture["ruleset"],
): NodePicture {
  const { id, zone, host, port, status } = sighting;
  const named = ruleset?.incarnations[id];
  return {
    id,
    zone,
    region: status?.region ?? null,
    role: roleOf(status, leader, ruleset?.cohort),
    term: status?.term ?? null,
    promisedTerm: status?.promisedTerm ?? null,
    postgres: status?.postgres ?? "unknown",
    state: status?.state ?? null,
    pid: status?.pid ?? null,
    host,
    port,
    grpcPort: status?.grpcPort ?? null,
    httpPort: status?.httpPort ?? null,
    poolerPort: sighting.poolerPort ?? null,
    leader: status?.leader ?? null,
    streaming: isStreaming(status, leader),
    receivedLsn: lsn(status?.receivedLsn ?? null),
    flushedLsn: lsn(status?.flushedLsn ?? null),
    appliedLsn: lsn(status?.appliedLsn ?? null),
    commitLsn: lsn(status?.commitLsn ?? null),
    incarnation: status?.incarnation ?? null,
    counts: status === undefined || named === undefined || status.incarnation === named,
    operatorStopped: status?.operatorStopped ?? false,
    clone: status?.clone ?? null,
    lastExit: status?.lastExit ?? null,
    problem: status === undefined ? (sighting.problem ?? "its sidecar doesn't answer") : null,
  };
}

/** Streams from the leader of the leader's term, as the follower sees it. */
export function isStreaming(status: NodeStatus | undefined, leader: NodeStatus | undefined): boolean {
  if (status === undefined || leader === undefined) return false;
  const { receiver } = status;
  return (
    status.leader === leader.node && receiver?.state === "streaming" && receiver.timeline === leader.term
  );
}

function roleOf(
  status: NodeStatus | undefined,
  leader: NodeStatus | undefined,
  cohort: readonly string[] | undefined,
): string {
  if (status === undefined) return "unknown";
  if (status.postgres !== "running" && status.postgres !== "starting") return "down";
  switch (status.state) {
    case "leader":
      return status.node === leader?.node ? "leader" : "fenced";
    case "candidate":
    case "elected":
      return "candidate";
    case "follower":
    case "fetching":
      return cohort === undefined || cohort.includes(status.node) ? "follower" : "observer";
    case "fenced":
    case "starting":
    case "stopping":
      return "fenced";
    case null:
      return "down";
  }
}

/** The cluster is whole: one leader, everybody else streams from it, and all are in the ruleset. */
export function isWhole(picture: ClusterPicture): boolean {
  const { leader, nodes, ruleset } = picture;
  return (
    leader !== null &&
    ruleset !== null &&
    nodes.every(({ id }) => ruleset.cohort.includes(id)) &&
    nodes.every((node) => node.id === leader || node.streaming)
  );
}

type Column = readonly [string, (node: NodePicture) => string];

/** Only in a cluster whose nodes have gateways of their own. */
const poolerColumn: Column = ["POOLER", (node) => String(node.poolerPort ?? "-")];

const columnsOf = (nodes: readonly NodePicture[]): readonly Column[] =>
  nodes.some(({ poolerPort }) => poolerPort !== null)
    ? allColumns
    : allColumns.filter((column) => column !== poolerColumn);

const allColumns: readonly Column[] = [
  ["NODE", (node) => node.id],
  ["ZONE", (node) => node.zone],
  ["ROLE", (node) => node.role],
  ["TERM", (node) => String(node.term ?? "-")],
  ["POSTGRES", (node) => node.postgres],
  ["PID", (node) => String(node.pid ?? "-")],
  ["PORT", (node) => String(node.port)],
  poolerColumn,
  ["RECEIVED", (node) => node.receivedLsn ?? "-"],
  ["FLUSHED", (node) => node.flushedLsn ?? "-"],
  ["APPLIED", (node) => node.appliedLsn ?? "-"],
  ["NOTE", noteOf],
];

function noteOf(node: NodePicture): string {
  if (node.problem !== null) return node.problem;
  if (node.operatorStopped) return "stopped by an operator";
  if (node.clone !== null) {
    const { from, doneBytes, totalBytes } = node.clone;
    const percent = totalBytes === 0 ? 0 : Math.min(100, Math.floor((100 * doneBytes) / totalBytes));
    return `copies from ${from}: ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)} (${percent} %)`;
  }
  if (!node.counts) return "lost its data: counts again when a ruleset names its new life";
  if (node.postgres === "crashed" || node.postgres === "failed") return node.lastExit ?? "";
  if (node.role === "follower" || node.role === "observer")
    return node.streaming ? "streaming" : "not streaming";
  return "";
}

export function formatPicture(picture: ClusterPicture): string {
  const { cluster, leader, term, commitLsn, ruleset } = picture;
  const columns = columnsOf(picture.nodes);
  const rows = [
    columns.map(([title]) => title),
    ...picture.nodes.map((node) => columns.map(([, value]) => value(node))),
  ];
  const widths = columns.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const table = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  const rules = ruleset === null ? "no ruleset" : `ruleset ${ruleset.version} (${ruleset.policy})`;
  return [
    `cluster ${cluster}: ${leader === null ? "NO LEADER" : `leader ${leader}`}, term ${term}, ` +
      `commit LSN ${commitLsn ?? "-"}, ${rules}`,
    "",
    ...table,
    ...(picture.backup === null ? [] : ["", ...formatBackupPicture(picture.backup, Date.now())]),
  ].join("\n");
}
