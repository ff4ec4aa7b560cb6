/** Which of its limits of time a client has passed. Pure. */
import { type WireError, wireError } from "../wire/errors.ts";

/** 0: none. */
export type TimeLimits = {
  /** From a request's arrival to its last byte. */
  readonly requestMs: number;
  /** From a transaction's first request to its end. */
  readonly transactionMs: number;
  readonly idleInTransactionMs: number;
  readonly clientIdleMs: number;
};

export type ClientTimes = {
  readonly state: "idle" | "waiting" | "active" | "idle in transaction";
  readonly requestSinceMs: number;
  readonly transactionSinceMs: number;
  /** When its last answer was complete. */
  readonly idleSinceMs: number;
};

export type Verdict =
  | { readonly kind: "none" }
  /** The request is cancelled, its error is this one. */
  | { readonly kind: "cancel"; readonly error: WireError }
  /** The session ends. */
  | { readonly kind: "end"; readonly error: WireError };

const none: Verdict = { kind: "none" };

const passed = (limitMs: number, sinceMs: number, nowMs: number): boolean =>
  limitMs > 0 && nowMs - sinceMs > limitMs;

const inWords = (ms: number): string => (ms % 1_000 === 0 ? `${ms / 1_000} s` : `${ms} ms`);

function hintOf(name: keyof TimeLimits): { hint: string } {
  return { hint: `Raise limits.${name} of the gateway, for all or in overrides for this user or database.` };
}

export function judgeTimes(times: ClientTimes, limits: TimeLimits, nowMs: number): Verdict {
  const { state } = times;
  const { requestMs, transactionMs, idleInTransactionMs, clientIdleMs } = limits;
  if (state === "waiting") return none; // the pool's waitMs
  if (state === "idle") {
    if (!passed(clientIdleMs, times.idleSinceMs, nowMs)) return none;
    const text = `terminating connection: it was idle for longer than ${inWords(clientIdleMs)}`;
    return { kind: "end", error: wireError("FATAL", "57P05", text, hintOf("clientIdleMs")) };
  }
  if (passed(transactionMs, times.transactionSinceMs, nowMs)) {
    const text = `terminating connection: its transaction took longer than ${inWords(transactionMs)}`;
    return { kind: "end", error: wireError("FATAL", "25P04", text, hintOf("transactionMs")) };
  }
  if (state === "active") {
    if (!passed(requestMs, times.requestSinceMs, nowMs)) return none;
    const text = `canceling statement: it took longer than ${inWords(requestMs)}`;
    return { kind: "cancel", error: wireError("ERROR", "57014", text, hintOf("requestMs")) };
  }
  if (!passed(idleInTransactionMs, times.idleSinceMs, nowMs)) return none;
  const text = `terminating connection: it was idle in a transaction for longer than ${inWords(idleInTransactionMs)}`;
  return { kind: "end", error: wireError("FATAL", "25P03", text, hintOf("idleInTransactionMs")) };
}
