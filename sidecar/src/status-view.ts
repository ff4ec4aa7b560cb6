/** What a coordinator gets to see of this node, from what the sidecar knows. Pure. */
import { type Promised, type Term, term } from "@quorate/consensus";
import type { Clone, NodeStatus, PostgresState } from "@quorate/proto";
import type { BackupReport } from "./backup/backup-report.ts";
import type { SidecarConfig } from "./config.ts";
import type { ControlStatus } from "./control-protocol.ts";

export type StatusParts = {
  readonly config: SidecarConfig;
  readonly sidecarVersion: string;
  readonly seq: number;
  readonly phase: PostgresState;
  readonly pid: number | null;
  readonly lastExit: string | null;
  /** Only what is on disk is ever reported. */
  readonly promise: Promised | null;
  readonly incarnation: string | null;
  readonly operatorStopped: boolean;
  readonly ledTerm: Term;
  /** The last that was heard from Postgres, in this or an earlier run. */
  readonly control: ControlStatus | null;
  readonly controlAgeMs: number | null;
  readonly diskStuckMs: number;
  readonly systemIdentifier: string | null;
  readonly clone: Clone | null;
  readonly backup?: BackupReport | undefined;
};

/** Postgres may be starting or running without having said anything yet. */
function answers(phase: PostgresState): boolean {
  return phase === "running" || phase === "stopping";
}

/** The term that it takes part in; without a grant (freshly started, down) the newest that it took part in. */
function termOf({ control, ledTerm }: StatusParts): Term {
  return term(Math.max(control?.term ?? 0, control?.position?.term ?? 0, ledTerm));
}

export function nodeStatus(parts: StatusParts): NodeStatus {
  const { config, promise, ledTerm } = parts;
  const control = answers(parts.phase) ? parts.control : null;
  const ofNode = termOf(parts);
  const leads = control !== null && (control.state === "leader" || control.state === "elected");
  return {
    node: config.node.id,
    zone: config.node.zone,
    region: config.node.region,
    cluster: config.cluster,
    host: config.host,
    pgPort: config.ports.postgres,
    grpcPort: config.ports.grpc,
    httpPort: config.ports.http,
    postgres: parts.phase,
    state: control?.state ?? null,
    term: ofNode,
    promisedTerm: promise?.term ?? term(0),
    promisedTo: promise?.coordinator ?? null,
    fenceTerm: control?.fenceTerm ?? term(0),
    pid: parts.pid,
    inRecovery: control?.inRecovery ?? true,
    consistent: control?.consistent ?? false,
    position: control?.position ?? null,
    termStartLsn: control?.termStartLsn ?? null,
    oldestLsn: control?.oldestLsn ?? null,
    commitLsn: control?.commitLsn ?? null,
    receivedLsn: control?.receivedLsn ?? null,
    flushedLsn: control?.flushedLsn ?? null,
    appliedLsn: control?.appliedLsn ?? null,
    rule: control?.rule ?? null,
    joint: control?.joint ?? [],
    // A ruleset that was in force stays known while Postgres is down.
    ruleset: parts.control?.ruleset ?? null,
    pending: control?.pending ?? null,
    leader: control?.leader ?? null,
    receiver: control?.receiver ?? null,
    followers: control?.followers ?? [],
    quiesced: control?.quiesced ?? false,
    waiting: control?.waiting ?? 0,
    systemIdentifier: control?.systemIdentifier ?? parts.systemIdentifier,
    seq: parts.seq,
    lastExit: parts.lastExit,
    operatorStopped: parts.operatorStopped,
    sidecarVersion: parts.sidecarVersion,
    wasLeader: !leads && ledTerm > 0 && ledTerm === ofNode,
    clone: parts.clone,
    // Of the data that is there.
    incarnation: parts.phase === "absent" || parts.phase === "cloning" ? null : parts.incarnation,
    controlAgeMs: control === null ? null : parts.controlAgeMs,
    diskStuckMs: parts.diskStuckMs,
    ...(parts.backup === undefined ? {} : { backup: JSON.stringify(parts.backup) }),
  };
}
