/** Runs a program to its end, with bounds on time and output. */
import { spawn } from "node:child_process";
import { getPriority, setPriority } from "node:os";
import { commonErrors } from "./error-codes.ts";
import type { OsUser } from "./os-user.ts";

export type RunOptions = {
  readonly cwd?: string;
  /** Added to our own environment; undefined removes a variable. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly input?: string;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Run as this user (only root can). */
  readonly user?: OsUser;
  /** Of the program and of what it starts, unless ours is higher: 0 (usual) to 19 (only when nobody else works). */
  readonly niceness?: number;
  /** Exit codes that are no failure, default [0]. */
  readonly okCodes?: readonly number[];
  /** Kept of each stream, the end of it; default 8 MiB. */
  readonly maxOutputBytes?: number;
  /** Called with each piece of output as it comes. */
  readonly onOutput?: (chunk: string) => void;
};

export type RunResult = {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
};

/** Collects the last `maxBytes` of a stream. */
function tailOf(maxBytes: number) {
  let chunks: Buffer[] = [];
  let size = 0;
  return {
    push(chunk: Buffer) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > 2 * maxBytes) {
        chunks = [Buffer.concat(chunks).subarray(-maxBytes)];
        size = maxBytes;
      }
    },
    text: () => Buffer.concat(chunks).subarray(-maxBytes).toString("utf8"),
  };
}

function lastLines(text: string, count: number): string {
  return text.trimEnd().split("\n").slice(-count).join("\n");
}

/** Of a program that was just started, before it has started others: they inherit it. */
export function lowerPriority(pid: number | undefined, niceness: number | undefined): void {
  if (pid === undefined || niceness === undefined) return;
  try {
    setPriority(pid, Math.max(getPriority(), niceness));
  } catch {
    // it has ended already
  }
}

/** Rejects with `command_failed` for any other exit code than `okCodes`, a signal, or a time-out. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const user = options.user;
  const userEnv = user === undefined ? {} : { HOME: user.home, USER: user.name, LOGNAME: user.name };
  const shown = [command, ...args].join(" ");
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, ...userEnv, ...options.env },
      stdio: ["pipe", "pipe", "pipe"],
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    lowerPriority(child.pid, options.niceness);
    const stdout = tailOf(options.maxOutputBytes ?? 8 << 20);
    const stderr = tailOf(options.maxOutputBytes ?? 8 << 20);
    let timedOut = false;
    const timer =
      options.timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            timedOut = true;
            child.kill("SIGKILL");
          }, options.timeoutMs);
    const listen = (keep: ReturnType<typeof tailOf>) => (chunk: Buffer) => {
      keep.push(chunk);
      options.onOutput?.(chunk.toString("utf8"));
    };
    child.stdout.on("data", listen(stdout));
    child.stderr.on("data", listen(stderr));
    child.stdin.on("error", () => undefined); // a child that doesn't read its input is no failure of ours
    child.stdin.end(options.input ?? "");
    child.on("error", (error) => {
      clearTimeout(timer);
      if (options.signal?.aborted === true) reject(options.signal.reason);
      else reject(commonErrors.error("command_failed", `could not start ${command}`, { cause: error }));
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const result = { code: code ?? -1, stdout: stdout.text(), stderr: stderr.text() };
      if (code !== null && (options.okCodes ?? [0]).includes(code)) return resolve(result);
      const how = timedOut ? `not done after ${options.timeoutMs} ms` : (signal ?? `exit code ${code}`);
      const output = lastLines(result.stderr.trim() === "" ? result.stdout : result.stderr, 15);
      reject(
        commonErrors.error("command_failed", `${shown}: ${how}${output === "" ? "" : `\n${output}`}`, {
          details: { command, args, ...result },
        }),
      );
    });
  });
}
