// A planned leader change: the leader holds new transactions and finishes those in flight, the intended leader
// catches up, then an ordinary leader change with that candidate. Any failure before the recruitment lets the
// old leader go on; after it, the ordinary rules of a leader change apply.

import type { Outcome } from "./coordinator-types.ts";
import { assertNever, formatLsn, type Lsn, type NodeId, type Term } from "./types.ts";

export interface PlannedChangeOptions {
  readonly quiesceTimeoutMs: number;
  readonly catchUpTimeoutMs: number;
}

export const defaultPlannedChangeOptions: PlannedChangeOptions = {
  quiesceTimeoutMs: 5_000,
  catchUpTimeoutMs: 5_000,
};

export interface PlannedChangeRequest {
  readonly leader: NodeId;
  readonly term: Term;
  readonly to: NodeId;
  readonly reason: string;
  readonly options: PlannedChangeOptions;
}

export type PlannedChangeState =
  | { readonly kind: "quiescing"; readonly request: PlannedChangeRequest }
  | { readonly kind: "catchingUp"; readonly request: PlannedChangeRequest; readonly target: Lsn }
  | { readonly kind: "changing"; readonly request: PlannedChangeRequest }
  | {
      readonly kind: "finished";
      readonly request: PlannedChangeRequest;
      readonly ok: boolean;
      readonly reason: string;
    };

export type PlannedChangeEvent =
  | { readonly kind: "quiesced"; readonly lsn: Lsn }
  | { readonly kind: "quiesceFailed"; readonly reason: string }
  /** From the intended leader's status stream; `leader` and `term` say whom it follows. */
  | {
      readonly kind: "progress";
      readonly node: NodeId;
      readonly leader: NodeId | null;
      readonly term: Term;
      readonly flushedLsn: Lsn;
    }
  | { readonly kind: "timer" }
  | { readonly kind: "changed"; readonly outcome: Outcome };

export type PlannedChangeEffect =
  | {
      /** Hold new transactions, answer when those in flight are done; after timeoutMs the leader goes on by itself. */
      readonly kind: "quiesce";
      readonly node: NodeId;
      readonly term: Term;
      readonly on: boolean;
      readonly timeoutMs: number;
    }
  | { readonly kind: "timer"; readonly afterMs: number }
  /** Begin a leader change with this candidate or none. */
  | { readonly kind: "changeLeader"; readonly candidate: NodeId; readonly reason: string }
  | { readonly kind: "finished"; readonly ok: boolean; readonly reason: string };

export interface PlannedChangeStep {
  readonly state: PlannedChangeState;
  readonly effects: readonly PlannedChangeEffect[];
}

export function beginPlannedChange(request: PlannedChangeRequest): PlannedChangeStep {
  if (request.to === request.leader) {
    return finish(request, false, `${request.to} leads already`, []);
  }
  const { leader, term } = request;
  // The leader must not stay quiesced if this coordinator dies: the bound covers all that comes before the recruitment.
  const timeoutMs = request.options.quiesceTimeoutMs + request.options.catchUpTimeoutMs;
  return {
    state: { kind: "quiescing", request },
    effects: [{ kind: "quiesce", node: leader, term, on: true, timeoutMs }],
  };
}

export function stepPlannedChange(state: PlannedChangeState, event: PlannedChangeEvent): PlannedChangeStep {
  switch (state.kind) {
    case "quiescing":
      if (event.kind === "quiesced") {
        const afterMs = state.request.options.catchUpTimeoutMs;
        return {
          state: { kind: "catchingUp", request: state.request, target: event.lsn },
          effects: [{ kind: "timer", afterMs }],
        };
      }
      return event.kind === "quiesceFailed"
        ? giveUp(state.request, `${state.request.leader} did not quiesce: ${event.reason}`)
        : keep(state);
    case "catchingUp":
      return onCatchUp(state, event);
    case "changing":
      return event.kind === "changed" ? onChanged(state.request, event.outcome) : keep(state);
    case "finished":
      return keep(state);
    default:
      return assertNever(state);
  }
}

function onCatchUp(
  state: Extract<PlannedChangeState, { kind: "catchingUp" }>,
  event: PlannedChangeEvent,
): PlannedChangeStep {
  const { request, target } = state;
  if (event.kind === "timer") {
    return giveUp(request, `${request.to} did not reach ${formatLsn(target)} in time`);
  }
  const caughtUp =
    event.kind === "progress" &&
    event.node === request.to &&
    event.leader === request.leader &&
    event.term === request.term &&
    event.flushedLsn >= target;
  if (!caughtUp) {
    return keep(state);
  }
  const { to: candidate, reason } = request;
  return { state: { kind: "changing", request }, effects: [{ kind: "changeLeader", candidate, reason }] };
}

function onChanged(request: PlannedChangeRequest, outcome: Outcome): PlannedChangeStep {
  switch (outcome.kind) {
    case "established":
      return finish(
        request,
        outcome.leader === request.to,
        `${outcome.leader} leads term ${outcome.term}`,
        [],
      );
    case "failed":
      // If the leader was recruited it is fenced and this is refused; if not, it goes on.
      return giveUp(request, outcome.reason);
    default:
      return assertNever(outcome);
  }
}

function keep(state: PlannedChangeState): PlannedChangeStep {
  return { state, effects: [] };
}

function giveUp(request: PlannedChangeRequest, reason: string): PlannedChangeStep {
  const { leader, term } = request;
  return finish(request, false, reason, [
    { kind: "quiesce", node: leader, term, on: false, timeoutMs: request.options.quiesceTimeoutMs },
  ]);
}

function finish(
  request: PlannedChangeRequest,
  ok: boolean,
  reason: string,
  before: readonly PlannedChangeEffect[],
): PlannedChangeStep {
  return {
    state: { kind: "finished", request, ok, reason },
    effects: [...before, { kind: "finished", ok, reason }],
  };
}
