// The node's side: which requests the sidecar honours, and what must be durable before what is answered.
// The order is always: promise on disk, then fence Postgres, then report. The promise is all that a node must
// remember; a Postgres that has just been started has no grant and acknowledges nothing.

import type { ExtensionState, PostgresState } from "./node-status.ts";
import type {
  ControlCommand,
  ControlResult,
  FenceReport,
  Following,
  NodeAnswer,
  NodeEffect,
  NodeEvent,
  NodeRefusal,
  NodeRefusalCode,
  NodeRequest,
  NodeState,
  NodeStep,
  Promised,
  Stage,
} from "./node-types.ts";
import { countsUnder, memberOf, type Ruleset } from "./ruleset.ts";
import {
  assert,
  assertNever,
  type CoordinatorId,
  comparePositions,
  type NodeId,
  noTerm,
  type Term,
} from "./types.ts";

/** What the disk holds when the sidecar starts. */
export interface Stored {
  readonly promise: Promised | null;
  readonly incarnation?: string | null;
  /** Absent: this life has always counted. */
  readonly admitted?: boolean;
  readonly following?: Following | null;
}

export function initialNode(id: NodeId, stored: Stored, postgres: PostgresState): NodeState {
  const { promise, incarnation = null, admitted = true, following = null } = stored;
  return {
    id,
    promise,
    durable: promise,
    recruitedTerm: noTerm,
    reported: null,
    electedTerm: noTerm,
    postgres,
    incarnation,
    admitted,
    following,
    ownRequests: 0,
    operations: new Map(),
  };
}

/** Requests with this id belong to nobody: the core's own fence after a sidecar or Postgres came up. */
export const attachRequestId = "attach";

/** What the core asks of itself; nobody waits for the answer. */
export function isOwnRequest(requestId: string): boolean {
  return requestId.startsWith("own-");
}

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
    case "reborn": {
      const { incarnation, copied } = event;
      return { state: { ...state, incarnation, admitted: !copied, following: null }, effects: [] };
    }
    case "applied":
      return onApplied(state, event.ruleset, event.fresh);
    case "admitted":
      return onAdmitted(state, event.incarnation);
    case "attached":
      return onAttached(state, event);
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
      if (
        request.kind === "elect" &&
        (state.electedTerm >= request.term || (state.reported?.term ?? noTerm) >= request.term)
      ) {
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

/** As a coordinator hears it. When Postgres refused, its code says more than ours. */
export function refusalToTell({ code, message, controlCode, promised }: NodeRefusal): {
  readonly code: string;
  readonly message: string;
  readonly promisedTerm: Term;
  readonly promisedTo: CoordinatorId | null;
} {
  return {
    code: controlCode ?? code,
    message,
    promisedTerm: promised?.term ?? noTerm,
    promisedTo: promised?.coordinator ?? null,
  };
}

/** Null when this node may make the first data of a new cluster. */
export function bootstrapProblem({
  postgres,
  promise,
}: Pick<NodeState, "postgres" | "promise">): { readonly code: string; readonly message: string } | null {
  if (postgres !== "absent") {
    return {
      code: "has_data",
      message: "this node has data already: a new cluster begins with an empty node",
    };
  }
  return promise === null || promise.term === noTerm
    ? null
    : {
        code: "not_new",
        message: "this node took part in a cluster before and has lost its data: let it follow",
      };
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
    // "Down" means that nobody is answered any more. One that stops may still answer whoever is connected.
    const code = state.postgres === "stopping" ? "wrong_state" : "postgres_down";
    return refuse(state, requestId, code, `Postgres of ${state.id} is ${state.postgres}`);
  }
  const electedTerm = request.kind === "elect" ? request.term : state.electedTerm;
  const { following } = state;
  const next = {
    ...state,
    electedTerm,
    following:
      request.kind === "follow"
        ? { term: request.term, leader: request.leader, member: request.member }
        : following,
    operations: withOperation(state, requestId, request, "controlling", prepared),
  };
  const control: NodeEffect = { kind: "control", requestId, command: commandFor(state, request) };
  return { state: next, effects: [...admission(state, request), control] };
}

/** Whoever recruited this life under rules that name it has seen that none in force names another. */
function admission({ admitted, incarnation }: NodeState, request: NodeRequest): NodeEffect[] {
  const counts = request.kind === "follow" && request.counts === incarnation;
  return admitted || incarnation === null || !counts ? [] : [{ kind: "admit", incarnation }];
}

function commandFor(state: NodeState, request: NodeRequest): ControlCommand {
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
      return {
        cmd: "follow",
        term: request.term,
        leader: request.leader,
        member: request.member && state.admitted,
      };
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
    return refuse(state, requestId, "superseded", supersededBy(state));
  }
  return act({ ...state, durable: state.promise }, requestId, request, operation.prepared);
}

function onControlled(state: NodeState, requestId: string, result: ControlResult): NodeStep {
  const operation = state.operations.get(requestId);
  if (operation?.stage === "rechecking") {
    return onRechecked(state, requestId, operation.request, result);
  }
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
    return refuse(state, requestId, "superseded", supersededBy(state));
  }
  switch (request.kind) {
    case "recruit":
      assert(result.report !== undefined, "a fence is answered with a report");
      assert(samePromise(state.durable, request), "nothing is reported before the promise is durable");
      return finish({ ...state, recruitedTerm: request.term, reported: result.report.position }, requestId, {
        kind: "recruited",
        report: signed(state, result.report),
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

function signed({ incarnation }: NodeState, report: FenceReport): FenceReport {
  return incarnation === null ? report : { ...report, incarnation };
}

/** The candidate restarted: only if it still holds what it reported may it go on. */
function onRechecked(
  state: NodeState,
  requestId: string,
  request: NodeRequest,
  result: ControlResult,
): NodeStep {
  if (!result.ok) {
    return refuse(state, requestId, "postgres", result.message, result.code);
  }
  if (superseded(state, request)) {
    return refuse(state, requestId, "superseded", supersededBy(state));
  }
  assert(result.report !== undefined, "a fence is answered with a report");
  if (state.reported === null || comparePositions(result.report.position, state.reported) < 0) {
    const message = `the log of ${state.id} is no longer what was reported to the coordinator`;
    return refuse(state, requestId, "wrong_state", message);
  }
  return act({ ...state, recruitedTerm: request.term }, requestId, request, true);
}

function supersededBy({ id, promise }: NodeState): string {
  return `${id} has since promised term ${promise?.term}`;
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
    return refuse(state, requestId, "superseded", supersededBy(state));
  }
  const { request } = operation;
  if (request.kind === "elect" || request.kind === "fetch") {
    const next = { ...state, operations: withOperation(state, requestId, request, "rechecking", true) };
    const command: ControlCommand = { cmd: "fence", term: request.term };
    return { state: next, effects: [{ kind: "control", requestId, command }] };
  }
  return act(state, requestId, request, true);
}

/**
 * A copy may be old, and so may be its rules. A ruleset that names this life was written after it began, and is in
 * force. Else, once it has applied all that was committed at some time since it began, it knows the rules that were in
 * force then: if they name another life, this one must not count yet.
 */
function onApplied(state: NodeState, ruleset: Ruleset | null, fresh: boolean): NodeStep {
  const { id, incarnation, admitted } = state;
  if (admitted || incarnation === null || ruleset === null) {
    return { state, effects: [] };
  }
  const named = memberOf(ruleset, id)?.incarnation === incarnation;
  const counts = named || (fresh && countsUnder(ruleset, id, incarnation));
  return { state, effects: counts ? [{ kind: "admit", incarnation }] : [] };
}

function onAdmitted(state: NodeState, incarnation: string): NodeStep {
  return state.admitted || state.incarnation !== incarnation
    ? { state, effects: [] }
    : followAgain({ ...state, admitted: true });
}

/** Whom it was last told to follow, if its promise still is for that term. */
function followAgain(state: NodeState): NodeStep {
  const { following, durable, postgres } = state;
  const runs = postgres === "running" || postgres === "starting";
  if (following === null || durable === null || following.term !== durable.term || !runs) {
    return { state, effects: [] };
  }
  const ownRequests = state.ownRequests + 1;
  const request: NodeRequest = { kind: "follow", coordinator: durable.coordinator, ...following };
  return onRequest({ ...state, ownRequests }, `own-${ownRequests}`, request);
}

const leadingStates: ReadonlySet<ExtensionState> = new Set(["candidate", "elected", "leader"]);
const idleStates: ReadonlySet<ExtensionState> = new Set(["starting", "fenced"]);

/**
 * A sidecar that died between the promise and the fence left Postgres with an older grant: withdraw it now. And a
 * Postgres that was started anew follows nobody.
 */
function onAttached(state: NodeState, attached: NodeEvent & { kind: "attached" }): NodeStep {
  const leadsTerm = leadingStates.has(attached.state) ? attached.term : noTerm;
  const known = leadsTerm > state.electedTerm ? { ...state, electedTerm: leadsTerm } : state;
  const { durable } = state;
  const fences: NodeEffect[] =
    durable === null || attached.fenceTerm >= durable.term
      ? []
      : [{ kind: "control", requestId: attachRequestId, command: { cmd: "fence", term: durable.term } }];
  const asked = [...state.operations.values()].some(({ request }) => request.kind === "follow");
  const idle = idleStates.has(attached.state) && !asked;
  const next = idle ? followAgain(known) : { state: known, effects: [] };
  return { state: next.state, effects: [...fences, ...next.effects] };
}
