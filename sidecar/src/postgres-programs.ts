/**
 * Programs that Postgres has started: in a fast stop it waits for its archive_command, for as long as that takes, and
 * one that can't reach the repository may take minutes. What isn't archived now is so after the next start, or by the
 * next leader.
 */
import { readFileSync } from "node:fs";
import { descendants, sendSignal } from "@quorate/common";

const lookIntervalMs = 500;

/** Ends each program of this postmaster that goes on for so long from now on; returns the function that ends this. */
export function endHangingPrograms(postmaster: number, patienceMs: number): () => void {
  const seenSinceMs = new Map<string, number>();
  const look = (): void => {
    const nowMs = performance.now();
    for (const { pid, startTicks } of descendants(postmaster)) {
      if (isPostgres(pid)) continue;
      const program = `${pid} ${startTicks}`;
      const sinceMs = seenSinceMs.get(program) ?? nowMs;
      seenSinceMs.set(program, sinceMs);
      if (nowMs - sinceMs >= patienceMs) sendSignal(pid, "SIGTERM");
    }
  };
  const timer = setInterval(look, lookIntervalMs);
  return () => clearInterval(timer);
}

/** A process of the server itself, not a program or a shell that was started there. */
export function isPostgres(pid: number): boolean {
  try {
    return /^postgres/.test(readFileSync(`/proc/${pid}/comm`, "utf8"));
  } catch {
    return false;
  }
}
