// The node's side: which requests the sidecar honours, and what must be durable before what is answered.
// The order is always: promise on disk, then fence Postgres, then report. The promise is all that a node must
// remember; a Postgres that has just been started has no grant and acknowledges nothing.

import {
  assert,
  assertNever,
  type CoordinatorId,
  type Lsn,
  type NodeId,
  noTerm,
  type Position,
  type Term,
} from "./types.ts";

export interface Promised {
  readonly term: Term;
  readonly coordinator: CoordinatorId;
}

export interface RulesetText {
  readonly version: number;
  readonly text: string;
  /** In reports: term and end of its record in the log. */
  readonly recordedAt?: Position;
}

/** As NodeStatus.postgres in proto/quorate.proto. */
export type PostgresState =
  | "absent"
  | "stopped"
  | "crashed"
  | "starting"
  | "running"
  | "cloning"
  | "stopping"
  | "failed";

export type NodeRequest =
  | {
      readonly kind: "recruit";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly reason: string;
    }
  | {
      readonly kind: "fetch";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly from: NodeId;
      readonly target: Position;
    }
  | {
      readonly kind: "elect";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly rule: string;
      readonly joint: readonly string[];
      readonly ruleset: RulesetText;
    }
  | {
      readonly kind: "follow";
      readonly term: Term;
      readonly coordinator: CoordinatorId;
      readonly leader: NodeId;
      readonly member: boolean;
    }
  | {
      readonly kind: "changeRuleset";
      readonly term: Term;
      readonly rule: string;
      readonly ruleset: RulesetText;
      readonly timeoutMs: number;
    }
  | { readonly kind: "quiesce"; readonly term: Term; readonly on: boolean; readonly timeoutMs: number };

/** One command of docs/control-socket.md; the shell adds the conninfo of `leader` and `from`. */
export type ControlCommand =
  | { readonly cmd: "fence"; readonly term: Term }
  | { readonly cmd: "follow"; readonly term: Term; readonly leader: NodeId; readonly member: boolean }
  | { readonly cmd: "fetch"; readonly term: Term; readonly from: NodeId; readonly target: Position }
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
      readonly rule: string;
      readonly ruleset: RulesetText;
      readonly timeoutMs: number;
    }
  | { readonly cmd: "quiesce"; readonly on: boolean; readonly timeoutMs: number };

export interface FenceReport {
  readonly position: Position;
  readonly commitLsn: Lsn;
  readonly ruleset: RulesetText | null;
  readonly tailRulesets: readonly RulesetText[];
  /** False on an ex-leader that would have to restart before it could lead or follow. Absent: true. */
  readonly inRecovery?: boolean;
}

export type ControlResult =
  | { readonly ok: true; readonly report?: FenceReport; readonly position?: Position; readonly lsn?: Lsn }
  | { readonly ok: false; readonly code: string; readonly message: string };

export type NodeRefusalCode =
  | "stale_term"
  | "promised_to_another"
  | "not_recruited"
  | "already_elected"
  | "superseded"
  | "no_data"
  | "postgres_down"
  | "wrong_state"
  | "persist_failed"
  | "postgres";

export interface NodeRefusal {
  readonly code: NodeRefusalCode;
  readonly message: string;
  /** Of docs/control-socket.md, when Postgres refused. */
  readonly controlCode?: string;
  readonly promised: Promised | null;
}

export type NodeAnswer =
  | { readonly kind: "recruited"; readonly report: FenceReport }
  | { readonly kind: "position"; readonly position: Position }
  | { readonly kind: "done"; readonly lsn?: Lsn }
  | { readonly kind: "refused"; readonly refusal: NodeRefusal };

export type NodeEvent =
  | { readonly kind: "request"; readonly requestId: string; readonly request: NodeRequest }
  | {
      readonly kind: "persisted";
      readonly requestId: string;
      readonly ok: boolean;
      readonly message?: string;
    }
  | { readonly kind: "controlled"; readonly requestId: string; readonly result: ControlResult }
  /** Postgres was restarted as a fenced follower, or cloned and started, as an effect asked for. */
  | { readonly kind: "prepared"; readonly requestId: string; readonly ok: boolean; readonly message?: string }
  /** The control socket answers (again): Postgres was started, or the sidecar adopted a running one. */
  | {
      readonly kind: "attached";
      readonly fenceTerm: Term;
      /** The term that it is a candidate of or leads, as its status says; 0 when it does neither. */
      readonly leadsTerm: Term;
    }
  | { readonly kind: "postgres"; readonly state: PostgresState };

export type NodeEffect =
  /** Write and fsync (file and directory), then 'persisted'. The shell keeps the order of these effects. */
  | { readonly kind: "persist"; readonly requestId: string; readonly promise: Promised }
  | { readonly kind: "control"; readonly requestId: string; readonly command: ControlCommand }
  /** Stop Postgres at once and start it as a fenced follower, then 'prepared'. */
  | { readonly kind: "restartFenced"; readonly requestId: string }
  /** Copy a data directory from that node and start it as a fenced follower, then 'prepared'. */
  | { readonly kind: "clone"; readonly requestId: string; readonly from: NodeId }
  | { readonly kind: "reply"; readonly requestId: string; readonly answer: NodeAnswer };

type Stage = "persisting" | "controlling" | "preparing";

interface Operation {
  readonly request: NodeRequest;
  readonly stage: Stage;
  /** A follow that has already restarted or cloned once doesn't do so again. */
  readonly prepared: boolean;
}

export interface NodeState {
  readonly id: NodeId;
  /** Obeyed from the moment it was decided, even before it is on disk. */
  readonly promise: Promised | null;
  /** What the disk is known to hold; only this is ever reported. */
  readonly durable: Promised | null;
  /** The term whose coordinator got a report that still holds: Postgres was not started anew since. */
  readonly recruitedTerm: Term;
  /** The last term in which this node was told to lead: never told twice. */
  readonly electedTerm: Term;
  readonly postgres: PostgresState;
  readonly operations: ReadonlyMap<string, Operation>;
}

export interface NodeStep {
  readonly state: NodeState;
  readonly effects: readonly NodeEffect[];
}

/** `stored` is what the disk holds when the sidecar starts. */
export function initialNode(id: NodeId, stored: Promised | null, postgres: PostgresState): NodeState {
  return {
    id,
    promise: stored,
    durable: stored,
    recruitedTerm: noTerm,
    electedTerm: noTerm,
    postgres,
    operations: new Map(),
  };
}

/** Requests with this id belong to nobody: the core's own fence after a sidecar or Postgres came up. */
export const attachRequestId = "attach";

export function stepNode(state: NodeState, event: NodeEvent): NodeStep {
  switch (event.kind) {
    case "request":
      return onRequest(state, event.requestId, event.request);
    case "persisted":
      return onPersisted(state, event.requestId, event.ok, event.message ?? "could not write the promise");
    case "controlled":
      return onControlled(state, event.requestId, event.result);
    case "prepared":
      return onPrepared(state, event.requestId, event.ok, event.message ?? "could not start Postgres");
    case "attached":
      return onAttached(state, event.fenceTerm, event.leadsTerm);
    case "postgres":
      return onPostgres(state, event.state);
    default:
      return assertNever(event);
  }
}

/** A log that was read before Postgres started anew is reported anew before anybody builds on it. */
function onPostgres(state: NodeState, postgres: PostgresState): NodeStep {
  const runs = postgres === "running" || postgres === "starting";
  return { state: { ...state, postgres, recruitedTerm: runs ? state.recruitedTerm : noTerm }, effects: [] };
}

function samePromise(a: Promised | null, b: Promised): boolean {
  return a !== null && a.term === b.term && a.coordinator === b.coordinator;
}

/** Null when the request may proceed; else why it is refused. Terms are the only authority. */
export function refusalFor(state: NodeState, request: NodeRequest): NodeRefusal | null {
  const { promise } = state;
  const refuse = (code: NodeRefusalCode, message: string): NodeRefusal => ({
    code,
    message,
    promised: promise,
  });
  if (promise !== null && request.term < promise.term) {
    return refuse(
      "stale_term",
      `term ${request.term} is below term ${promise.term}, which ${state.id} obeys`,
    );
  }
  const sameTerm = promise !== null && request.term === promise.term;
  switch (request.kind) {
    case "recruit":
      if (request.term === noTerm) {
        return refuse("stale_term", "term 0 is nobody's");
      }
      if (sameTerm && promise.coordinator !== request.coordinator) {
        return refuse(
          "promised_to_another",
          `${state.id} gave term ${promise.term} to ${promise.coordinator}`,
        );
      }
      return state.postgres === "absent" || state.postgres === "cloning"
        ? refuse("no_data", `${state.id} has no data: it can't tell what it held`)
        : null;
    case "fetch":
    case "elect":
      // A position was validated for exactly this promise: an unrecruited node must not be told to lead.
      if (!samePromise(state.promise, request) || state.recruitedTerm !== request.term) {
        return refuse(
          "not_recruited",
          `${state.id} was not recruited by ${request.coordinator} for term ${request.term}`,
        );
      }
      if (request.kind === "elect" && state.electedTerm >= request.term) {
        return refuse("already_elected", `${state.id} was already told to begin term ${request.term}`);
      }
      return null;
    case "follow":
      // Whoever asks: the term names its leader, and the leader's timeline is checked by the connection itself.
      if (request.leader === state.id) {
        return refuse("wrong_state", `${state.id} can't follow itself`);
      }
      return sameTerm && state.electedTerm === request.term
        ? refuse("wrong_state", `${state.id} was told to lead term ${request.term}`)
        : null;
    case "changeRuleset":
    case "quiesce":
      return sameTerm && state.electedTerm === request.term
        ? null
        : refuse("wrong_state", `${state.id} was not told to lead term ${request.term}`);
    default:
      return assertNever(request);
  }
}

function onRequest(state: NodeState, requestId: string, request: NodeRequest): NodeStep {
  assert(!state.operations.has(requestId), "request ids are unique while under way");
  const refusal = refusalFor(state, request);
  if (refusal !== null) {
    return { state, effects: [{ kind: "reply", requestId, answer: { kind: "refused", refusal } }] };
  }
  if (request.kind === "recruit" || request.kind === "follow") {
    const sameTerm = state.promise !== null && state.promise.term === request.term;
    const promise: Promised =
      sameTerm && state.promise !== null
        ? state.promise
        : { term: request.term, coordinator: request.coordinator };
    if (!samePromise(state.durable, promise)) {
      const next = { ...state, promise, operations: withOperation(state, requestId, request, "persisting") };
      return { state: next, effects: [{ kind: "persist", requestId, promise }] };
    }
  }
  return act(state, requestId, request, false);
}

function withOperation(
  state: NodeState,
  requestId: string,
  request: NodeRequest,
  stage: Stage,
  prepared = false,
) {
  return new Map(state.operations).set(requestId, { request, stage, prepared });
}

function without(state: NodeState, requestId: string): NodeState {
  const operations = new Map(state.operations);
  operations.delete(requestId);
  return { ...state, operations };
}

function finish(state: NodeState, requestId: string, answer: NodeAnswer): NodeStep {
  return { state: without(state, requestId), effects: [{ kind: "reply", requestId, answer }] };
}

function refuse(
  state: NodeState,
  requestId: string,
  code: NodeRefusalCode,
  message: string,
  controlCode?: string,
): NodeStep {
  const refusal: NodeRefusal = {
    code,
    message,
    promised: state.promise,
    ...(controlCode === undefined ? {} : { controlCode }),
  };
  return finish(state, requestId, { kind: "refused", refusal });
}

/** The promise is on disk: now Postgres. */
function act(state: NodeState, requestId: string, request: NodeRequest, prepared: boolean): NodeStep {
  if (request.kind === "follow" && state.postgres === "absent" && !prepared) {
    const next = { ...state, operations: withOperation(state, requestId, request, "preparing", true) };
    return { state: next, effects: [{ kind: "clone", requestId, from: request.leader }] };
  }
  if (state.postgres !== "running" && state.postgres !== "starting") {
    return refuse(state, requestId, "postgres_down", `Postgres of ${state.id} is ${state.postgres}`);
  }
  const electedTerm = request.kind === "elect" ? request.term : state.electedTerm;
  const next = {
    ...state,
    electedTerm,
    operations: withOperation(state, requestId, request, "controlling", prepared),
  };
  return { state: next, effects: [{ kind: "control", requestId, command: commandFor(request) }] };
}

function commandFor(request: NodeRequest): ControlCommand {
  switch (request.kind) {
    case "recruit":
      return { cmd: "fence", term: request.term };
    case "fetch":
      return { cmd: "fetch", term: request.term, from: request.from, target: request.target };
    case "elect":
      return {
        cmd: "elect",
        term: request.term,
        rule: request.rule,
        joint: request.joint,
        ruleset: request.ruleset,
      };
    case "follow":
      return { cmd: "follow", term: request.term, leader: request.leader, member: request.member };
    case "changeRuleset":
      return {
        cmd: "ruleset",
        term: request.term,
        rule: request.rule,
        ruleset: request.ruleset,
        timeoutMs: request.timeoutMs,
      };
    case "quiesce":
      return { cmd: "quiesce", on: request.on, timeoutMs: request.timeoutMs };
    default:
      return assertNever(request);
  }
}

function superseded(state: NodeState, request: NodeRequest): boolean {
  return state.promise !== null && state.promise.term > request.term;
}

function onPersisted(state: NodeState, requestId: string, ok: boolean, message: string): NodeStep {
  const operation = state.operations.get(requestId);
  if (operation === undefined || operation.stage !== "persisting") {
    return { state, effects: [] };
  }
  const { request } = operation;
  if (!ok) {
    // The promise stays in force in memory, which is only more careful.
    return refuse(state, requestId, "persist_failed", message);
  }
  if (superseded(state, request)) {
    return refuse(
      state,
      requestId,
      "superseded",
      `${state.id} has since promised term ${state.promise?.term}`,
    );
  }
  return act({ ...state, durable: state.promise }, requestId, request, operation.prepared);
}

function onControlled(state: NodeState, requestId: string, result: ControlResult): NodeStep {
  const operation = state.operations.get(requestId);
  if (operation === undefined || operation.stage !== "controlling") {
    return { state, effects: [] };
  }
  const { request } = operation;
  if (!result.ok) {
    const restarts = request.kind === "follow" || request.kind === "elect" || request.kind === "fetch";
    if (result.code === "restart_required" && restarts && !operation.prepared) {
      const next = { ...state, operations: withOperation(state, requestId, request, "preparing", true) };
      return { state: next, effects: [{ kind: "restartFenced", requestId }] };
    }
    return refuse(state, requestId, "postgres", result.message, result.code);
  }
  if (superseded(state, request)) {
    return refuse(
      state,
      requestId,
      "superseded",
      `${state.id} has since promised term ${state.promise?.term}`,
    );
  }
  switch (request.kind) {
    case "recruit":
      assert(result.report !== undefined, "a fence is answered with a report");
      assert(samePromise(state.durable, request), "nothing is reported before the promise is durable");
      return finish({ ...state, recruitedTerm: request.term }, requestId, {
        kind: "recruited",
        report: result.report,
      });
    case "fetch":
    case "elect":
      assert(result.position !== undefined, `${request.kind} is answered with a position`);
      return finish(state, requestId, { kind: "position", position: result.position });
    case "follow":
    case "changeRuleset":
    case "quiesce":
      return finish(state, requestId, {
        kind: "done",
        ...(result.lsn === undefined ? {} : { lsn: result.lsn }),
      });
    default:
      return assertNever(request);
  }
}

function onPrepared(state: NodeState, requestId: string, ok: boolean, message: string): NodeStep {
  const operation = state.operations.get(requestId);
  if (operation === undefined || operation.stage !== "preparing") {
    return { state, effects: [] };
  }
  if (!ok) {
    return refuse(state, requestId, "postgres_down", message);
  }
  if (superseded(state, operation.request)) {
    return refuse(
      state,
      requestId,
      "superseded",
      `${state.id} has since promised term ${state.promise?.term}`,
    );
  }
  return act(state, requestId, operation.request, true);
}

/** A sidecar that died between the promise and the fence left Postgres with an older grant: withdraw it now. */
function onAttached(state: NodeState, fenceTerm: Term, leadsTerm: Term): NodeStep {
  const known = leadsTerm > state.electedTerm ? { ...state, electedTerm: leadsTerm } : state;
  if (state.durable === null || fenceTerm >= state.durable.term) {
    return { state: known, effects: [] };
  }
  const command: ControlCommand = { cmd: "fence", term: state.durable.term };
  return { state: known, effects: [{ kind: "control", requestId: attachRequestId, command }] };
}
