// One supervised child process: restarted at once when it ends, with a pause only when it ends again and again.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import type { Logger } from "./logging.ts";

export interface ChildSpec {
  readonly name: string;
  readonly args: readonly string[];
  /** What the program is started through (nsenter, nice …); usually nothing. */
  readonly through?: readonly string[];
  /** Without it the child writes where its parent does. */
  readonly logFile?: string;
  /** What the child says on a channel to its parent, which ends with either of them. */
  readonly heard?: (message: unknown) => void;
}

export interface SupervisedOptions {
  readonly log: Logger;
  /** Exit codes after which a restart is pointless (the configuration is wrong). */
  readonly fatalCodes: ReadonlySet<number>;
}

/** A child that lived this long has earned an immediate restart. */
const healthyAfterMs = 2_000;
const maxPauseMs = 5_000;

/** Pure: how long to wait before restart number `quickDeaths` in a row (0 = it had been healthy). */
export function restartPauseMs(quickDeaths: number): number {
  return quickDeaths <= 1 ? 0 : Math.min(maxPauseMs, 50 * 2 ** Math.min(quickDeaths, 10));
}

export class Supervised {
  readonly spec: ChildSpec;
  readonly #options: SupervisedOptions;
  #child: ChildProcess | undefined;
  #startedAtMs = 0;
  #quickDeaths = 0;
  #stopping = false;
  #timer: NodeJS.Timeout | undefined;
  #gone: (() => void)[] = [];

  constructor(spec: ChildSpec, options: SupervisedOptions) {
    this.spec = spec;
    this.#options = options;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  start(): void {
    const { through = [], args, logFile, heard } = this.spec;
    const opened = logFile === undefined ? undefined : this.#openLog(logFile);
    const output = logFile === undefined ? "inherit" : (opened ?? "ignore");
    this.#startedAtMs = performance.now();
    const [program = process.execPath, ...rest] = [...through, process.execPath, ...args];
    const child = spawn(program, rest, {
      stdio: ["ignore", output, output, ...(heard === undefined ? [] : ["ipc" as const])],
      detached: true, // its own session: a terminal's Ctrl-C must not reach it
      cwd: "/",
    });
    if (opened !== undefined) closeSync(opened);
    if (heard !== undefined) child.on("message", heard);
    this.#child = child;
    child.once("error", (error) => this.#ended(`could not start: ${error.message}`, undefined));
    child.once("exit", (code, signal) => this.#ended(signal ?? `exit code ${code}`, code ?? undefined));
    this.#options.log.info({ child: this.spec.name, childPid: child.pid }, "started");
  }

  /** A disk that takes no log is no reason to leave a node alone. */
  #openLog(logFile: string): number | undefined {
    try {
      return openSync(logFile, "a");
    } catch (error) {
      this.#options.log.error(
        { child: this.spec.name, err: error },
        "its log can't be written; it runs without",
      );
      return undefined;
    }
  }

  /** By the channel; false if there is nobody to hear it. */
  say(message: object): boolean {
    const child = this.#child;
    if (child?.connected !== true) return false;
    child.send(message, () => undefined); // it may end meanwhile
    return true;
  }

  /** To read its configuration again. */
  hangUp(): void {
    this.#child?.kill("SIGHUP");
  }

  /** SIGTERM, and SIGKILL when the time is over. Never restarted after this call. */
  async stop(timeoutMs: number): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === undefined) return;
    const gone = new Promise<void>((resolve) => this.#gone.push(resolve));
    child.kill("SIGTERM");
    const force = setTimeout(() => {
      this.#options.log.warn({ child: this.spec.name, timeoutMs }, "did not stop in time: killed");
      child.kill("SIGKILL");
    }, timeoutMs);
    await gone;
    clearTimeout(force);
  }

  #ended(how: string, code: number | undefined): void {
    if (this.#child === undefined) return;
    this.#child = undefined;
    const livedMs = Math.round(performance.now() - this.#startedAtMs);
    const { log, fatalCodes } = this.#options;
    if (this.#stopping) {
      log.info({ child: this.spec.name, how }, "stopped");
      for (const resolve of this.#gone) resolve();
      return;
    }
    if (code !== undefined && fatalCodes.has(code)) {
      log.error(
        { child: this.spec.name, how, logFile: this.spec.logFile },
        "ended, and a restart can't help",
      );
      return;
    }
    this.#quickDeaths = livedMs < healthyAfterMs ? this.#quickDeaths + 1 : 0;
    const pauseMs = restartPauseMs(this.#quickDeaths);
    log.warn({ child: this.spec.name, how, livedMs, pauseMs }, "ended: starting it again");
    if (pauseMs === 0) this.start();
    else this.#timer = setTimeout(() => this.start(), pauseMs);
  }
}
