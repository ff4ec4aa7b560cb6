// Statuses for tests of pure code: a sensible node, with the fields that matter overwritten.
import { lsn, nodeId, term } from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";

export function statusOf(id: string, fields: Partial<NodeStatus> = {}): NodeStatus {
  return {
    node: nodeId(id),
    zone: "a",
    region: "local",
    cluster: "main",
    host: "127.0.0.1",
    pgPort: 5501,
    grpcPort: 5511,
    httpPort: 5521,
    postgres: "running",
    state: "fenced",
    term: term(2),
    promisedTerm: term(2),
    promisedTo: null,
    fenceTerm: term(2),
    pid: 100,
    inRecovery: true,
    consistent: true,
    position: { term: term(2), lsn: lsn(0x5000) },
    termStartLsn: null,
    oldestLsn: null,
    commitLsn: lsn(0x4000),
    receivedLsn: lsn(0x5000),
    flushedLsn: lsn(0x5000),
    appliedLsn: lsn(0x4000),
    rule: null,
    joint: [],
    ruleset: null,
    leader: null,
    receiver: null,
    followers: [],
    quiesced: false,
    waiting: 0,
    systemIdentifier: "7000",
    seq: 1,
    lastExit: null,
    operatorStopped: false,
    sidecarVersion: "test",
    wasLeader: false,
    clone: null,
    controlAgeMs: 1,
    diskStuckMs: 0,
    incarnation: null,
    pending: null,
    ...fields,
  };
}

export function leaderStatus(id: string, fields: Partial<NodeStatus> = {}): NodeStatus {
  return statusOf(id, { state: "leader", inRecovery: false, leader: nodeId(id), ...fields });
}

export function followerStatus(id: string, leader: string, fields: Partial<NodeStatus> = {}): NodeStatus {
  const receiver = { state: "streaming" as const, timeline: term(2), lastMessageAgeMs: 1 };
  return statusOf(id, { state: "follower", leader: nodeId(leader), receiver, ...fields });
}

export function absentStatus(id: string): NodeStatus {
  return statusOf(id, { postgres: "absent", state: null, pid: null, consistent: false, position: null });
}

export function member(node: string): NodeStatus["followers"][number] {
  const at = lsn(0x5000);
  return {
    node: nodeId(node),
    member: true,
    pid: 1,
    timeline: term(2),
    writtenLsn: at,
    flushedLsn: at,
    appliedLsn: at,
    replyAgeMs: 1,
  };
}
