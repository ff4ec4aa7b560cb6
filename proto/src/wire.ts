// The only file that knows how the loader represents messages. `decode` checks what came in (both ends
// of the wire are other processes, perhaps of another version); `encode` is its inverse.

import { fileURLToPath } from "node:url";
import { loadPackageDefinition, type ServiceClientConstructor } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import {
  coordinatorId,
  formatLsn,
  isNodeId,
  type Lsn,
  noLsn,
  parseLsn,
  term as toTerm,
} from "@quorate/consensus/types.ts";
import { z } from "zod";
import * as t from "./types.ts";

type Wire = Record<string, unknown>;

/** decode throws ZodError on anything the contract doesn't allow. */
export type Codec<T> = { readonly decode: (wire: unknown) => T; readonly encode: (value: T) => Wire };

const uint32 = z.number().int().min(0).max(0xffffffff);
const uint53 = z.number().int().min(0);
const text = z.string();
const term = uint32.transform(toTerm);
const positiveTerm = uint32.min(1).transform(toTerm);
const nodeId = z.string().refine(isNodeId, "not a node id");
const maybeNodeId = z.union([z.literal("").transform(() => null), nodeId]);
const coordinator = text.min(1).transform(coordinatorId);
const maybeCoordinator = z.string().transform((s) => (s === "" ? null : coordinatorId(s)));
const optionalText = z.string().transform((s) => (s === "" ? null : s));
const maybeLsn = z.string().transform((s, ctx): Lsn | null => {
  if (s === "") return null;
  const lsn = parseLsn(s);
  if (lsn === null) ctx.addIssue({ code: "custom", message: `not an LSN: ${JSON.stringify(s)}` });
  return lsn;
});
const lsn = maybeLsn.transform((value, ctx): Lsn => {
  if (value === null) ctx.addIssue({ code: "custom", message: "the LSN is missing" });
  return value ?? noLsn;
});
const putLsn = (value: Lsn | null): string => (value === null ? "" : formatLsn(value));

const position = z.object({ term, lsn });
const ruleset = z.object({ version: uint53, text, recordedAt: position.nullish() }).transform(
  ({ version, text: json, recordedAt }): t.RulesetText => ({
    version,
    text: json,
    ...(recordedAt === null || recordedAt === undefined ? {} : { recordedAt }),
  }),
);
const refusal = z.object({
  code: text.min(1),
  message: text,
  promisedTerm: term,
  promisedTo: maybeCoordinator,
});
const maybeReceiver = z.object({
  state: z.enum(["streaming", "connecting", "stopped"]),
  timeline: term,
  lastMessageAgeMs: uint32,
});
const follower = z.object({
  node: nodeId,
  member: z.boolean(),
  pid: uint32,
  timeline: term,
  writtenLsn: maybeLsn,
  flushedLsn: maybeLsn,
  appliedLsn: maybeLsn,
  replyAgeMs: uint32,
});

const nodeStatusFields = z.object({
  node: nodeId,
  zone: text,
  region: text,
  cluster: text,
  host: text,
  pgPort: uint32,
  grpcPort: uint32,
  httpPort: uint32,
  postgres: z.enum(t.postgresStates),
  state: z.union([z.enum(t.extensionStates), z.literal("").transform(() => null)]),
  term,
  promisedTerm: term,
  promisedTo: maybeCoordinator,
  fenceTerm: term,
  pid: uint32.transform((pid) => (pid === 0 ? null : pid)),
  inRecovery: z.boolean(),
  consistent: z.boolean(),
  position: position.nullable(),
  termStartLsn: maybeLsn,
  oldestLsn: maybeLsn,
  commitLsn: maybeLsn,
  receivedLsn: maybeLsn,
  flushedLsn: maybeLsn,
  appliedLsn: maybeLsn,
  rule: optionalText,
  joint: z.array(text),
  ruleset: ruleset.nullable(),
  pending: ruleset.nullable(),
  leader: maybeNodeId,
  receiver: maybeReceiver.nullable(),
  followers: z.array(follower),
  quiesced: z.boolean(),
  waiting: uint32,
  systemIdentifier: optionalText,
  seq: uint53,
  lastExit: optionalText,
  operatorStopped: z.boolean(),
  sidecarVersion: text,
  wasLeader: z.boolean(),
  clone: z.object({ from: nodeId, doneBytes: uint53, totalBytes: uint53 }).nullable(),
  controlAgeMsPlusOne: uint32,
  diskStuckMs: uint32,
  incarnation: optionalText,
  backup: z.string(),
});

const nodeStatus = nodeStatusFields.transform(
  ({ controlAgeMsPlusOne, backup, ...fields }): t.NodeStatus => ({
    ...fields,
    controlAgeMs: controlAgeMsPlusOne === 0 ? null : controlAgeMsPlusOne - 1,
    ...(backup === "" ? {} : { backup }),
  }),
);

const putPosition = (p: t.Position): Wire => ({ term: p.term, lsn: putLsn(p.lsn) });
const putRuleset = (r: t.RulesetText): Wire => ({
  ...r,
  recordedAt: r.recordedAt === undefined ? null : putPosition(r.recordedAt),
});
const putRefusal = (r: t.Refusal): Wire => ({ ...r, promisedTo: r.promisedTo ?? "" });

function putStatus(status: t.NodeStatus): Wire {
  const { controlAgeMs, backup, ...s } = status;
  return {
    ...s,
    controlAgeMsPlusOne: controlAgeMs === null ? 0 : controlAgeMs + 1,
    backup: backup ?? "",
    state: s.state ?? "",
    promisedTo: s.promisedTo ?? "",
    pid: s.pid ?? 0,
    position: s.position === null ? null : putPosition(s.position),
    termStartLsn: putLsn(s.termStartLsn),
    oldestLsn: putLsn(s.oldestLsn),
    commitLsn: putLsn(s.commitLsn),
    receivedLsn: putLsn(s.receivedLsn),
    flushedLsn: putLsn(s.flushedLsn),
    appliedLsn: putLsn(s.appliedLsn),
    rule: s.rule ?? "",
    incarnation: s.incarnation ?? "",
    ruleset: s.ruleset === null ? null : putRuleset(s.ruleset),
    pending: s.pending === null ? null : putRuleset(s.pending),
    leader: s.leader ?? "",
    followers: s.followers.map((f) => ({
      ...f,
      writtenLsn: putLsn(f.writtenLsn),
      flushedLsn: putLsn(f.flushedLsn),
      appliedLsn: putLsn(f.appliedLsn),
    })),
    systemIdentifier: s.systemIdentifier ?? "",
    lastExit: s.lastExit ?? "",
  };
}

/** A message whose TypeScript shape equals its wire shape. */
function plain<T extends object>(schema: z.ZodType<T>): Codec<T> {
  return { decode: (wire) => schema.parse(wire), encode: (value) => ({ ...value }) as Wire };
}

/** A reply: either a refusal or the fields of `schema`. */
function reply<T extends object>(schema: z.ZodType<T>, encode: (value: T) => Wire): Codec<t.Reply<T>> {
  const refused = z.object({ refusal: refusal.nullable() });
  return {
    decode: (wire) => {
      const r = refused.parse(wire).refusal;
      return r === null ? { ok: true, ...schema.parse(wire) } : { ok: false, refusal: r };
    },
    encode: (value) => {
      if (!value.ok) return { refusal: putRefusal(value.refusal) };
      const { ok: _, ...fields } = value;
      return encode(fields as unknown as T);
    },
  };
}

export const statusCodec: Codec<t.NodeStatus> = {
  decode: (wire) => nodeStatus.parse(wire),
  encode: putStatus,
};

const fetchRequest = z.object({
  term,
  coordinator,
  from: nodeId,
  host: text.min(1),
  port: uint32,
  target: position,
  timeoutMs: uint32,
});

const recruited = z.object({
  position,
  commitLsn: maybeLsn,
  ruleset: ruleset.nullable(),
  tailRulesets: z.array(ruleset),
  systemIdentifier: optionalText,
  inRecovery: z.boolean(),
  leaseMs: uint32,
  upMs: uint32,
  incarnation: optionalText,
  status: nodeStatus,
});

const electRequest = z.object({
  term,
  coordinator,
  rule: text.min(1),
  joint: z.array(text),
  ruleset,
});

const followRequest = z.object({
  term: positiveTerm,
  coordinator,
  leader: nodeId,
  host: text.min(1),
  port: uint32,
  member: z.boolean(),
  counts: optionalText,
});

const changeRulesetRequest = z.object({ term: positiveTerm, rule: text.min(1), ruleset, timeoutMs: uint32 });

export const codecs = {
  recruit: {
    request: plain<t.RecruitRequest>(z.object({ term: positiveTerm, coordinator, reason: text })),
    reply: reply<t.Recruited>(recruited, (r) => ({
      ...r,
      position: putPosition(r.position),
      commitLsn: putLsn(r.commitLsn),
      ruleset: r.ruleset === null ? null : putRuleset(r.ruleset),
      tailRulesets: r.tailRulesets.map(putRuleset),
      systemIdentifier: r.systemIdentifier ?? "",
      incarnation: r.incarnation ?? "",
      status: putStatus(r.status),
    })),
  },
  fetch: {
    request: {
      decode: (wire: unknown): t.FetchRequest => fetchRequest.parse(wire),
      encode: (r: t.FetchRequest): Wire => ({ ...r, target: putPosition(r.target) }),
    },
    reply: reply<t.Fetched>(z.object({ position }), (r) => ({ position: putPosition(r.position) })),
  },
  elect: {
    request: {
      decode: (wire: unknown): t.ElectRequest => electRequest.parse(wire),
      encode: (r: t.ElectRequest): Wire => ({ ...r, ruleset: putRuleset(r.ruleset) }),
    },
    reply: reply<t.Elected>(z.object({ position }), (r) => ({ position: putPosition(r.position) })),
  },
  follow: {
    request: {
      decode: (wire: unknown): t.FollowRequest => {
        const { counts, ...request } = followRequest.parse(wire);
        return counts === null ? request : { ...request, counts };
      },
      encode: (r: t.FollowRequest): Wire => ({ ...r, counts: r.counts ?? "" }),
    },
    reply: reply<t.Followed>(z.object({ done: z.enum(["following", "cloning"]) }), (r) => ({ ...r })),
  },
  changeRuleset: {
    request: {
      decode: (wire: unknown): t.ChangeRulesetRequest => changeRulesetRequest.parse(wire),
      encode: (r: t.ChangeRulesetRequest): Wire => ({ ...r, ruleset: putRuleset(r.ruleset) }),
    },
    reply: reply<t.RulesetChanged>(z.object({ lsn }), (r) => ({ lsn: putLsn(r.lsn) })),
  },
  quiesce: {
    request: plain<t.QuiesceRequest>(z.object({ term: positiveTerm, on: z.boolean(), timeoutMs: uint32 })),
    reply: reply<t.Quiesced>(z.object({ lsn: maybeLsn }), (r) => ({ lsn: putLsn(r.lsn) })),
  },
  bootstrap: {
    request: plain<t.BootstrapRequest>(z.object({ cluster: text.min(1) })),
    reply: reply<t.Bootstrapped>(z.object({ systemIdentifier: text.min(1) }), (r) => ({ ...r })),
  },
  control: {
    request: plain<t.ControlRequest>(
      z.object({ action: z.enum(["start", "stop", "restart", "kill", "discard", "remake"]) }),
    ),
    reply: reply<t.Controlled>(z.object({ status: nodeStatus }), (r) => ({ status: putStatus(r.status) })),
  },
  record: {
    request: plain<t.RecordRequest>(z.object({ event: text.min(2) })),
    reply: reply<t.Recorded>(z.object({ kept: z.boolean() }), (r) => ({ ...r })),
  },
  events: {
    request: plain<t.EventsRequest>(z.object({ limit: uint32 })),
    reply: reply<t.Events>(z.object({ events: z.array(text) }), (r) => ({ ...r })),
  },
  leaseConnections: {
    request: plain<t.LeaseConnectionsRequest>(
      z.object({
        holder: text.min(1).max(200),
        obeys: uint32,
        open: uint32,
        wants: uint32,
        ends: z.boolean(),
      }),
    ),
    reply: reply<t.LeasedConnections>(
      z.object({ share: uint32, expiresMs: uint32, budget: uint32 }),
      (r) => ({ ...r }),
    ),
  },
  watch: {
    request: plain<t.WatchRequest>(z.object({ watcher: text, intervalMs: uint32 })),
    reply: statusCodec,
  },
} as const;

export const protoFile: string = fileURLToPath(new URL("../quorate.proto", import.meta.url));

function loadService(): ServiceClientConstructor {
  const definition = loadSync(protoFile, {
    keepCase: false,
    longs: Number,
    defaults: true,
    arrays: true,
    objects: false,
  });
  const root = loadPackageDefinition(definition) as unknown as {
    quorate: { v1: { Sidecar: ServiceClientConstructor } };
  };
  return root.quorate.v1.Sidecar;
}

/** The loader's client class and service definition; for client.ts and server.ts only. */
export const SidecarService: ServiceClientConstructor = loadService();
