/** When a Postgres that died is started again. Pure. */

/** Dying sooner than this after its start, without having come up, counts as a failure in a row. */
export const healthyAfterMs = 10_000;
/** The same for one that came up: not at once, or a Postgres that dies of what it is told would be restarted in a loop. */
export const settledAfterMs = 1_000;
/** From here on the status says `failed`: someone should look. It is still tried. */
export const failedAfter = 5;
const firstDelayMs = 100;
const maxDelayMs = 10_000;

export type CrashHistory = { readonly failuresInRow: number };
export const noCrash: CrashHistory = { failuresInRow: 0 };

export type RestartPlan = {
  readonly history: CrashHistory;
  readonly delayMs: number;
  readonly state: "crashed" | "failed";
};

export type Life = {
  readonly ranMs: number;
  /** It reached a consistent state: it can start. */
  readonly cameUp: boolean;
};

/** The first restart comes at once: only a Postgres that can't start has to be waited for. */
export function planRestart(history: CrashHistory, { ranMs, cameUp }: Life): RestartPlan {
  const failuresInRow = ranMs >= (cameUp ? settledAfterMs : healthyAfterMs) ? 1 : history.failuresInRow + 1;
  const delayMs = failuresInRow === 1 ? 0 : Math.min(firstDelayMs * 2 ** (failuresInRow - 2), maxDelayMs);
  return {
    history: { failuresInRow },
    delayMs,
    state: failuresInRow >= failedAfter ? "failed" : "crashed",
  };
}
