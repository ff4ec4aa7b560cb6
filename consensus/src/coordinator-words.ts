// Small words of the coordinator: pauses, and answers as text.

import type { CallResult, CoordinatorOptions } from "./coordinator-types.ts";
import { assertNever } from "./types.ts";

/** Exponential, with full jitter above a small floor, so that racing coordinators part. */
export function backoffMs(failedAttempts: number, jitter: number, options: CoordinatorOptions): number {
  const ceiling = Math.min(options.backoffMaxMs, options.backoffMinMs * 2 ** Math.min(failedAttempts, 16));
  return Math.round(options.backoffMinMs + jitter * (ceiling - options.backoffMinMs));
}

/**
 * A machine that is merely slow answers late, and each new term throws away what it had begun: whoever failed again and
 * again is more patient.
 */
export function recruitTimeoutMs(failedAttempts: number, options: CoordinatorOptions): number {
  return options.recruitTimeoutMs * 2 ** Math.min(Math.max(failedAttempts - 1, 0), 2);
}

/** An answer that was not the one hoped for. */
export function describe(result: CallResult): string {
  switch (result.kind) {
    case "refused":
      return `${result.refusal.code}: ${result.refusal.message}`;
    case "unreachable":
      return `unreachable: ${result.message}`;
    case "recruited":
    case "fetched":
    case "elected":
    case "following":
      return `unexpected answer "${result.kind}"`;
    default:
      return assertNever(result);
  }
}
