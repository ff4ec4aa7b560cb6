import { QuorateError } from "./errors.ts";

/** Stays on in production: a broken invariant must stop the operation, not be guessed around. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new QuorateError("assertion_failed", message);
}

/** Ends a `switch` over a tagged union: the compiler proves that it can't be reached, data from outside may. */
export function assertNever(value: never, what = "value"): never {
  throw new QuorateError("assertion_failed", `unexpected ${what}: ${JSON.stringify(value)}`);
}
