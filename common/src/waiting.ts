/** Waits with a bound and an AbortSignal. */
import { setTimeout as timer } from "node:timers/promises";
import { commonErrors } from "./error-codes.ts";

/** Rejects with the signal's reason when aborted. */
export async function sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
  try {
    await timer(durationMs, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}

export type PollOptions = {
  /** What is waited for, for the error's text: "the follower to stream". */
  readonly what: string;
  readonly timeoutMs: number;
  readonly intervalMs?: number;
  readonly signal?: AbortSignal;
  /** What was seen last, for the error's text. */
  readonly seen?: () => string;
};

/**
 * Calls `probe` until it gives something other than undefined, null or false, and returns that. An exception of
 * `probe` ends the wait. For tests and tools; production code listens to events.
 */
export async function poll<T>(
  probe: () => Promise<T | undefined | null | false> | T | undefined | null | false,
  options: PollOptions,
): Promise<T> {
  const deadlineMs = performance.now() + options.timeoutMs;
  for (;;) {
    options.signal?.throwIfAborted();
    const result = await probe();
    if (result !== undefined && result !== null && result !== false) return result;
    const leftMs = deadlineMs - performance.now();
    if (leftMs <= 0) {
      const seen = options.seen === undefined ? "" : `; seen last: ${options.seen()}`;
      throw commonErrors.error(
        "timed_out",
        `waited ${options.timeoutMs} ms in vain for ${options.what}${seen}`,
      );
    }
    await sleep(Math.min(options.intervalMs ?? 20, leftMs), options.signal);
  }
}
