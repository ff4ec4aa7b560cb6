/**
 * One run of a postmaster: started by us, or found running (adopted after a crash of the sidecar).
 *
 * It is a child in its own session, so that it survives us. A child's death is the exit event. An adopted
 * postmaster is nobody's child here: `checkDeath` is called when the control socket ends (docs/control-socket.md).
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { asPostgres, codeOf, isAlive, poll, processFacts, sendSignal } from "@quorate/common";
import type { PostgresOwner } from "./environment.ts";
import type { NodePaths } from "./paths.ts";
import { endHangingPrograms, isPostgres } from "./postgres-programs.ts";

export type StartOptions = {
  readonly binDir: string;
  readonly arguments: readonly string[];
  readonly paths: NodePaths;
  readonly owner: PostgresOwner;
  /** Called once. */
  readonly onExit: (process: PostgresProcess, reason: string) => void;
};

const quitTimeoutMs = 5_000;
const programPatienceMs = 10_000;
const killTimeoutMs = 10_000;
const deathCheckMs = 10;

export class PostgresProcess {
  readonly pid: number;
  readonly adopted: boolean;
  readonly startedAtMs = performance.now();
  /** Fulfilled with the reason when the process has ended. */
  readonly ended: Promise<string>;
  readonly #startTicks: number | undefined;
  readonly #finish: (reason: string) => void;
  #reason: string | null = null;

  private constructor(pid: number, adopted: boolean, onExit: StartOptions["onExit"]) {
    this.pid = pid;
    this.adopted = adopted;
    this.#startTicks = processFacts(pid)?.startTicks;
    let settle: (reason: string) => void = () => {};
    this.ended = new Promise((resolve) => {
      settle = resolve;
    });
    this.#finish = (reason) => {
      if (this.#reason !== null) return;
      this.#reason = reason;
      onExit(this, reason);
      settle(reason);
    };
  }

  /** Rejects if the program can't even be started. */
  static start(options: StartOptions): Promise<PostgresProcess> {
    const { paths } = options;
    rmSync(paths.controlSocket, { force: true });
    const log = openSync(paths.postgresLog, "a", 0o640);
    const logStart = fstatSync(log).size;
    let child: ChildProcess;
    try {
      child = spawn(
        join(options.binDir, "postgres"),
        options.arguments,
        asPostgres(
          {
            cwd: paths.data,
            detached: true,
            stdio: ["ignore", log, log],
            env: cleanEnvironment(),
          },
          options.owner?.name,
        ),
      );
    } finally {
      closeSync(log);
    }
    return new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("spawn", () => {
        const { pid } = child;
        if (pid === undefined) throw new Error("a spawned process has a pid");
        const postgres = new PostgresProcess(pid, false, options.onExit);
        child.removeListener("error", reject);
        child.once("exit", (code, signal) => {
          const how = signal === null ? `exit code ${code}` : `killed by ${signal}`;
          const why = lastWords(paths.postgresLog, logStart);
          postgres.#finish(why === null ? how : `${how}: ${why}`);
        });
        child.unref();
        resolve(postgres);
      });
    });
  }

  /** The postmaster that works on this data directory, if any. */
  static adopt(paths: NodePaths, onExit: StartOptions["onExit"]): PostgresProcess | null {
    const pid = postmasterPid(paths.data);
    if (pid === null || !isAlive(pid) || !worksIn(pid, realpathSync(paths.data))) return null;
    return new PostgresProcess(pid, true, onExit);
  }

  get running(): boolean {
    return this.#reason === null;
  }

  /** Has it ended? For an adopted process this is the news; a child's end is told by itself, a moment later. */
  checkDeath(): boolean {
    if (!this.running) return true;
    if (isAlive(this.pid, this.#startTicks)) return false;
    if (this.adopted) this.#finish("ended (it was no child of this sidecar, so its exit status is unknown)");
    return true;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) sendSignal(this.pid, signal);
  }

  /** Fast, after a bound immediate, after another bound SIGKILL. Returns how it ended. */
  async stop(mode: "fast" | "immediate", timeoutMs: number): Promise<string> {
    if (mode === "fast") {
      this.signal("SIGINT");
      const patient = endHangingPrograms(this.pid, programPatienceMs);
      const ended = await this.#endsWithin(timeoutMs).finally(patient);
      if (ended) return "stopped (fast)";
    }
    this.signal("SIGQUIT");
    if (await this.#endsWithin(quitTimeoutMs)) return "stopped (immediate)";
    // A stopped (SIGSTOP) postmaster hears nothing but this.
    this.signal("SIGKILL");
    if (await this.#endsWithin(killTimeoutMs)) return "killed, as it didn't stop";
    throw new Error(`postmaster ${this.pid} can't be killed`);
  }

  #endsWithin(timeoutMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const finish = (ended: boolean): void => {
        clearTimeout(timer);
        clearInterval(check);
        resolve(ended);
      };
      const timer = setTimeout(() => finish(false), timeoutMs);
      const check = this.adopted ? setInterval(() => this.checkDeath(), deathCheckMs) : undefined;
      void this.ended.then(() => finish(true));
    });
  }
}

const lastWordsBytes = 16_384;

/** The newest FATAL or PANIC that this run has logged, so that the operator needn't look for it. */
function lastWords(log: string, fromByte: number): string | null {
  let file: number;
  try {
    file = openSync(log, "r");
  } catch {
    return null;
  }
  try {
    const { size } = fstatSync(file);
    // The log may have been rotated meanwhile.
    const start = Math.max(size < fromByte ? 0 : fromByte, size - lastWordsBytes);
    const bytes = Buffer.alloc(Math.max(0, size - start));
    readSync(file, bytes, 0, bytes.length, start);
    return lastComplaint(bytes.toString("utf8"));
  } finally {
    closeSync(file);
  }
}

export function lastComplaint(log: string): string | null {
  // Without a control file Postgres ends before it can log as usual.
  const found = [...log.matchAll(/\b(?:FATAL|PANIC): +(.+)$|^postgres: (could not .+)$/gm)].map((match) =>
    (match[1] ?? match[2] ?? "").trim(),
  );
  // What every client and background process is told when the server goes down explains nothing.
  const telling = found.filter(
    (text) => !/terminating|shutting down|starting up|not yet accepting|recovery mode/.test(text),
  );
  return telling.at(-1) ?? null;
}

/** Children of a postmaster that was killed: they hold shared memory, and a walsender may still send. */
export async function killLeftovers(data: string, timeoutMs: number): Promise<number> {
  const found = processesIn(data);
  for (const pid of found) sendSignal(pid, "SIGKILL");
  if (found.length > 0)
    await poll(() => processesIn(data).length === 0, {
      what: `processes of a dead Postgres in ${data} to end`,
      timeoutMs,
      intervalMs: 5,
    });
  return found.length;
}

/** Every process of Postgres has the data directory as its working directory. */
export function processesIn(data: string): number[] {
  let directory: string;
  try {
    directory = realpathSync(data);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return [];
    throw error;
  }
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => worksIn(pid, directory) && isAlive(pid) && isPostgres(pid));
}

function worksIn(pid: number, directory: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/cwd`) === directory;
  } catch {
    return false; // ended meanwhile, or somebody else's
  }
}

export function postmasterPid(data: string): number | null {
  try {
    const pid = Number(readFileSync(join(data, "postmaster.pid"), "utf8").split("\n")[0]);
    return Number.isInteger(pid) && pid > 1 ? pid : null;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}

/** Ours, without what libpq and Postgres would take from it. */
export function cleanEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name));
  return { ...Object.fromEntries(kept), LC_ALL: "C" };
}
