/** Processes that are not our children (or may not be): alive, identity, descendants, end. Linux, by /proc. */
import { readdirSync, readFileSync } from "node:fs";
import { codeOf } from "./errors.ts";
import { type PollOptions, poll } from "./waiting.ts";

export type ProcessFacts = {
  readonly pid: number;
  readonly parentPid: number;
  /** R, S, D, T (stopped), Z (zombie: has ended, its parent hasn't noticed) … */
  readonly state: string;
  /** Ticks since boot: with the pid it names one process, even when the pid is used again. */
  readonly startTicks: number;
};

/** undefined if there is no such process. */
export function processFacts(pid: number): ProcessFacts | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
  // The command name is in parentheses and may contain anything, so count from the last one.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return {
    pid,
    state: fields[0] ?? "?",
    parentPid: Number(fields[1]),
    startTicks: Number(fields[19]),
  };
}

/** A zombie isn't alive. With `startTicks` a newer process that got the same pid isn't either. */
export function isAlive(pid: number, startTicks?: number): boolean {
  const facts = processFacts(pid);
  if (facts === undefined || facts.state === "Z" || facts.state === "X") return false;
  return startTicks === undefined || facts.startTicks === startTicks;
}

/** True if the signal was sent; false if there is no such process (any more). */
export function sendSignal(pid: number, signal: NodeJS.Signals): boolean {
  if (!Number.isInteger(pid) || pid <= 1) throw new RangeError(`not a process that may be signalled: ${pid}`);
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if (codeOf(error) === "ESRCH") return false;
    throw error;
  }
}

/** Waits until the process has ended. For a child of ours use its "exit" event instead. */
export async function waitForExit(
  pid: number,
  options: Omit<PollOptions, "what"> & { readonly startTicks?: number },
): Promise<void> {
  await poll(() => !isAlive(pid, options.startTicks), { ...options, what: `process ${pid} to end` });
}

/** All descendants, parents before children. */
export function descendants(pid: number): ProcessFacts[] {
  const byParent = new Map<number, ProcessFacts[]>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const facts = processFacts(Number(entry));
    if (facts === undefined) continue;
    const siblings = byParent.get(facts.parentPid);
    if (siblings === undefined) byParent.set(facts.parentPid, [facts]);
    else siblings.push(facts);
  }
  const found: ProcessFacts[] = [];
  const queue = [...(byParent.get(pid) ?? [])];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    found.push(next);
    queue.push(...(byParent.get(next.pid) ?? []));
  }
  return found;
}

/**
 * Sends the signal to a process and all its descendants, top down, until no new descendant turns up (bounded).
 * Returns the pids that were signalled.
 */
export function killTree(pid: number, signal: NodeJS.Signals = "SIGKILL"): number[] {
  const signalled = new Set<number>();
  // Whoever is about to die is stopped first, so that nobody has children who are overlooked.
  const kill = signal === "SIGKILL";
  for (let round = 0; round < 10; round++) {
    const fresh = [pid, ...descendants(pid).map((facts) => facts.pid)].filter((each) => !signalled.has(each));
    if (fresh.length === 0) break;
    for (const each of fresh) {
      sendSignal(each, kill ? "SIGSTOP" : signal);
      signalled.add(each);
    }
  }
  if (kill) for (const each of signalled) sendSignal(each, signal);
  return [...signalled];
}

/** The pid in a pid file (its first line), if that process lives and its command line mentions `mark`. */
export function livePid(pidFile: string, mark?: string): number | undefined {
  let text: string;
  try {
    text = readFileSync(pidFile, "utf8");
  } catch {
    return undefined;
  }
  const pid = Number(text.split("\n")[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return undefined;
  if (mark !== undefined && !commandLine(pid).includes(mark)) return undefined;
  return pid;
}

export function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

/** Ends the process of a pid file, whose parent has died before it, if it lives. */
export async function killLeftover(
  pidFile: string,
  mark: string,
  found: (pid: number) => void,
): Promise<void> {
  const pid = livePid(pidFile, mark);
  if (pid === undefined) return;
  found(pid);
  sendSignal(pid, "SIGKILL");
  await waitForExit(pid, { timeoutMs: 10_000 });
}
