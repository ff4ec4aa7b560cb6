/** When a Postgres that died is started again. Pure. */

/** Dying sooner than this after its start counts as a failure in a row. */
export const healthyAfterMs = 10_000;
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

/** The first restart comes at once: most crashes are the first for long. */
export function planRestart(history: CrashHistory, ranMs: number): RestartPlan {
  const failuresInRow = ranMs >= healthyAfterMs ? 1 : history.failuresInRow + 1;
  const delayMs = failuresInRow === 1 ? 0 : Math.min(firstDelayMs * 2 ** (failuresInRow - 2), maxDelayMs);
  return {
    history: { failuresInRow },
    delayMs,
    state: failuresInRow >= failedAfter ? "failed" : "crashed",
  };
}
