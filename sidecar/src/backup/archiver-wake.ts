/**
 * When Postgres's archiver is woken, which sleeps for a minute after three failures: when something waits, the last thing
 * that happened to it was a failure, and it has been idle for a while; for twice as long each time when that didn't help,
 * until it sleeps as long as it would by itself. Pure.
 */

export type ArchiverFacts = {
  readonly waitingSegments: number;
  readonly lastArchivedAtMs: number | null;
  readonly lastFailedAtMs: number | null;
};

export type WakeState = { readonly idleMs: number; readonly wokenAtMs: number };

const firstIdleMs = 5_000;
const mostIdleMs = 60_000;

export const notWoken: WakeState = { idleMs: firstIdleMs, wokenAtMs: 0 };

export function wakeStep(
  state: WakeState,
  { waitingSegments, lastArchivedAtMs, lastFailedAtMs }: ArchiverFacts,
  nowMs: number,
): { readonly state: WakeState; readonly wake: boolean } {
  const works = lastFailedAtMs === null || (lastArchivedAtMs !== null && lastArchivedAtMs >= lastFailedAtMs);
  if (works) return { state: notWoken, wake: false };
  const idleSinceMs = Math.max(lastFailedAtMs, state.wokenAtMs);
  if (waitingSegments === 0 || nowMs - idleSinceMs < state.idleMs) return { state, wake: false };
  return { state: { idleMs: Math.min(2 * state.idleMs, mostIdleMs), wokenAtMs: nowMs }, wake: true };
}
