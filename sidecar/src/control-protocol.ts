/** Messages of the control socket (docs/control-socket.md): what the extension sends, checked. */
import { isNodeId, type Lsn, lsn, type NodeId, parseLsn, type Term, term } from "@quorate/consensus/types.ts";
import { type ExtensionState, extensionStates, type NodeStatus, type RulesetText } from "@quorate/proto";
import { z } from "zod";

const termSchema = z.number().int().min(0).max(0xffffffff).transform(term);
const count = z.number().int().min(0);
const lsnSchema = z.string().transform((text, ctx): Lsn => {
  const value = parseLsn(text);
  if (value === null) ctx.addIssue({ code: "custom", message: `not an LSN: ${JSON.stringify(text)}` });
  return value ?? lsn(0);
});
/** Absent, null and 0/0 all mean "unknown". */
const maybeLsn = lsnSchema
  .nullish()
  .transform((value): Lsn | null => (value === null || value === undefined || value === 0n ? null : value));
const maybeNode = z
  .string()
  .nullish()
  .transform((text): NodeId | null => (typeof text === "string" && isNodeId(text) ? text : null));
const position = z.object({ term: termSchema, lsn: lsnSchema });
/** With term and end of its record, where the extension tells them. */
const ruleset = z
  .object({ version: count, text: z.string(), term: termSchema.nullish(), lsn: maybeLsn })
  .transform(({ version, text, term: ofTerm, lsn: end }): RulesetText => {
    const known = typeof ofTerm === "number" && end !== null;
    return { version, text, ...(known ? { recordedAt: { term: ofTerm, lsn: end } } : {}) };
  });

/** What both it and the sidecar's own status say. */
type SharedStatus = Pick<
  NodeStatus,
  | "systemIdentifier"
  | "term"
  | "fenceTerm"
  | "inRecovery"
  | "consistent"
  | "position"
  | "commitLsn"
  | "termStartLsn"
  | "oldestLsn"
  | "receivedLsn"
  | "flushedLsn"
  | "appliedLsn"
  | "rule"
  | "joint"
  | "ruleset"
  | "pending"
  | "leader"
  | "receiver"
  | "followers"
  | "quiesced"
  | "waiting"
>;

export type ControlStatus = SharedStatus & {
  readonly node: string;
  readonly state: ExtensionState;
  readonly pid: number;
  /** Setting quorate.lease; 0: no leases. */
  readonly leaseMs: number;
  /** Since the start of the postmaster. */
  readonly upMs: number;
  /** Age of the contents; null: since it started, nobody who led has told it what was committed. */
  readonly stalenessMs: number | null;
  /** For how long a write or flush of WAL has been under way; 0: none is. */
  readonly walWriteAgeMs: number;
};

/** Absent or null: nothing. */
const maybeMs = z
  .number()
  .nullish()
  .transform((ms) => Math.max(0, Math.round(ms ?? 0)));
/** An age that is unknown ("never") counts as very old; who must not take it for one compares with this. */
export const unknownAgeMs = 0xffffffff;
const age = z
  .number()
  .nullish()
  .transform((ms) =>
    ms === null || ms === undefined || ms < 0 ? unknownAgeMs : Math.min(Math.floor(ms), unknownAgeMs),
  );

/** Anything may stream: pg_receivewal, say. Only what is named like a node is one. */
const followerSchema = z.object({
  node: maybeNode,
  member: z.boolean(),
  pid: count,
  timeline: termSchema,
  writtenLsn: maybeLsn,
  flushedLsn: maybeLsn,
  appliedLsn: maybeLsn,
  replyAgeMs: age,
});
type ParsedFollower = z.infer<typeof followerSchema>;

function isNamed(follower: ParsedFollower): follower is ParsedFollower & { node: NodeId } {
  return follower.node !== null;
}

export const controlStatusSchema: z.ZodType<ControlStatus, unknown> = z.object({
  node: z.string(),
  systemIdentifier: z
    .union([z.string(), z.number().transform(String)])
    .nullish()
    .transform((text) => (text === undefined || text === "" ? null : text)),
  state: z.enum(extensionStates),
  term: termSchema,
  fenceTerm: termSchema,
  pid: count,
  inRecovery: z.boolean(),
  consistent: z.boolean(),
  upMs: maybeMs,
  position: position.nullish().transform((value) => value ?? null),
  commitLsn: maybeLsn,
  termStartLsn: maybeLsn,
  oldestLsn: maybeLsn,
  receivedLsn: maybeLsn,
  flushedLsn: maybeLsn,
  appliedLsn: maybeLsn,
  rule: z
    .string()
    .nullish()
    .transform((text) => (text === undefined || text === "" ? null : text)),
  joint: z
    .array(z.string())
    .nullish()
    .transform((rules) => rules ?? []),
  ruleset: ruleset.nullish().transform((value) => value ?? null),
  pending: ruleset.nullish().transform((value) => value ?? null),
  leader: maybeNode,
  receiver: z
    .object({
      state: z.enum(["streaming", "connecting", "stopped"]),
      timeline: termSchema,
      lastMessageAgeMs: age,
    })
    .nullish()
    .transform((value) => value ?? null),
  followers: z.array(followerSchema).transform((all) => all.filter(isNamed)),
  quiesced: z.boolean(),
  waiting: count,
  leaseMs: maybeMs,
  stalenessMs: z
    .number()
    .nullish()
    .transform((ms) => (ms === null || ms === undefined || ms < 0 ? null : Math.round(ms))),
  walWriteAgeMs: maybeMs,
});

export const fenceResultSchema = z.object({
  /** null: recovery doesn't know yet where the log ends. */
  position: position.nullish().transform((value) => value ?? null),
  commitLsn: maybeLsn,
  ruleset: ruleset.nullish().transform((value) => value ?? null),
  tailRulesets: z
    .array(ruleset)
    .nullish()
    .transform((value) => value ?? []),
  status: controlStatusSchema,
});
export type FenceResult = z.infer<typeof fenceResultSchema>;

export const positionResultSchema = z.object({ position });
export const lsnResultSchema = z.object({ lsn: maybeLsn });
export const statusResultSchema = z.object({ status: controlStatusSchema });
export const emptyResultSchema = z.object({});

/** A line from the extension is one of these. */
export const eventSchema = z.object({ event: z.literal("status"), status: controlStatusSchema });
export const answerSchema = z.union([
  z.looseObject({ id: z.number(), ok: z.literal(true) }),
  z.object({ id: z.number(), ok: z.literal(false), code: z.string(), message: z.string() }),
]);

export type ControlCommand =
  | { readonly cmd: "status" }
  | { readonly cmd: "watch"; readonly intervalMs: number }
  | { readonly cmd: "fence"; readonly term: Term }
  | { readonly cmd: "follow"; readonly term: Term; readonly leader: NodeId; readonly conninfo: string }
  | {
      readonly cmd: "fetch";
      readonly term: Term;
      readonly from: NodeId;
      readonly conninfo: string;
      readonly target: { readonly term: Term; readonly lsn: string };
    }
  | {
      readonly cmd: "elect";
      readonly term: Term;
      readonly rule: string;
      readonly joint: readonly string[];
      readonly ruleset: RulesetText;
    }
  | {
      readonly cmd: "ruleset";
      readonly term: Term;
      readonly version: number;
      readonly rule: string;
      readonly text: string;
      readonly timeoutMs: number;
    }
  | { readonly cmd: "quiesce"; readonly on: boolean; readonly timeoutMs: number };
