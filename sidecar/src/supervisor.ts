/**
 * Keeps a Postgres: starts it, adopts it, stops it, starts it again when it dies, and holds the control connection.
 * It decides nothing about terms. Every change of `phase` and every status is told to `handlers` at once.
 *
 * Operations that start, stop or replace Postgres run one after the other (`exclusively`).
 */
import { assert, type Logger, messageOf, sleep } from "@quorate/common";
import type { PostgresState } from "@quorate/proto";
import { ControlConnection, isNotListening } from "./control-client.ts";
import { type ControlStatus, statusResultSchema } from "./control-protocol.ts";
import { killLeftovers, PostgresProcess, type StartOptions } from "./postgres-process.ts";
import { type CrashHistory, noCrash, planRestart } from "./restart-planner.ts";

export type SupervisorHandlers = {
  /** The phase or the last exit changed; called synchronously, before anything else happens. */
  readonly changed: () => void;
  /** The control socket answers. What is sent here is sent before anything else. */
  readonly attached: (connection: ControlConnection, status: ControlStatus) => void;
  readonly status: (status: ControlStatus) => void;
  /** Postgres ended without having been asked to. */
  readonly crashed: (reason: string) => void;
};

export type SupervisorOptions = {
  readonly startOptions: Omit<StartOptions, "onExit">;
  /** Writes the configuration before each start. */
  readonly configure: () => Promise<void>;
  readonly hasData: () => boolean;
  readonly stopTimeoutMs: number;
  readonly watchIntervalMs: number;
  readonly logger: Logger;
  readonly handlers: SupervisorHandlers;
};

/** A restart is work for this thread too: let the news of the crash leave first. */
const newsFirstMs = 2;
/** A postmaster that is killed closes its sockets before it has ended for good. */
const exitFirstMs = 5;
const attachRetryMs = 10;
/** After that it is time to say that something is odd: a Postgres without the extension, say. */
const attachWarnMs = 30_000;
const controlLimits = { timeoutMs: 5_000 };
const leftoversTimeoutMs = 10_000;

export class Supervisor {
  readonly #options: SupervisorOptions;
  #phase: PostgresState;
  #wanted: "up" | "down" = "down";
  #process: PostgresProcess | null = null;
  #connection: ControlConnection | null = null;
  #history: CrashHistory = noCrash;
  #lastExit: string | null = null;
  #stopping = false;
  /** The Postgres that runs, or ran last, got as far as a consistent state. */
  #cameUp = false;
  #runs = 0;
  #tail: Promise<unknown> = Promise.resolve();
  readonly #restart = new Set<AbortController>();
  readonly #waiters = new Set<(connection: ControlConnection) => void>();

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#phase = options.hasData() ? "stopped" : "absent";
  }

  get phase(): PostgresState {
    return this.#phase;
  }

  get lastExit(): string | null {
    return this.#lastExit;
  }

  get pid(): number | null {
    return this.#process?.running === true ? this.#process.pid : null;
  }

  /** The attached connection, or null. */
  get connection(): ControlConnection | null {
    return this.#phase === "running" ? this.#connection : null;
  }

  /** Takes over a running Postgres, if there is one. */
  adopt(): boolean {
    assert(this.#process === null, "only who has no Postgres adopts one");
    const found = PostgresProcess.adopt(this.#options.startOptions.paths, this.#onExit);
    if (found === null) return false;
    this.#wanted = "up";
    this.#run(found);
    return true;
  }

  /** Fulfilled when the process is there (not yet attached). */
  start(): Promise<void> {
    this.#wanted = "up";
    this.#cancelRestarts();
    return this.exclusively(() => this.#startNow());
  }

  stop(mode: "fast" | "immediate", timeoutMs = this.#options.stopTimeoutMs): Promise<void> {
    this.#wanted = "down";
    this.#cancelRestarts();
    return this.exclusively(() => this.#stopNow(mode, timeoutMs));
  }

  /** Rises with each start and adoption. */
  get run(): number {
    return this.#runs;
  }

  /** Back as a fenced follower, whatever it was. With `ofRun`: unless that has happened since. */
  restart(mode: "fast" | "immediate", ofRun?: number): Promise<void> {
    this.#wanted = "up";
    this.#cancelRestarts();
    return this.exclusively(async () => {
      if (ofRun === undefined || ofRun === this.#runs) await this.#stopNow(mode, this.#options.stopTimeoutMs);
      await this.#startNow();
    });
  }

  /** Postgres reads its files again; one that doesn't run yet will read them anyway. */
  reload(): void {
    if (this.#phase === "running") this.#process?.signal("SIGHUP");
  }

  /** Data that can't be started is put aside: the node has none then. False: it runs, or may still come up. */
  discard(setAside: () => Promise<void>): Promise<boolean> {
    return this.exclusively(async () => {
      if (this.#phase !== "failed" || this.#process !== null) return false;
      this.#cancelRestarts();
      await setAside();
      this.#setPhase("absent");
      return true;
    });
  }

  /** Data that runs, but can't be brought up to date by streaming any more, is put aside. False: `ofRun` is over. */
  remake(setAside: () => Promise<void>, ofRun: number): Promise<boolean> {
    return this.exclusively(async () => {
      // Several may ask at once; whoever comes second must not touch what the first has put aside or made since.
      if (ofRun !== this.#runs || this.#phase === "absent") return false;
      this.#cancelRestarts();
      await this.#stopNow("immediate", this.#options.stopTimeoutMs);
      await setAside();
      this.#setPhase("absent");
      return true;
    });
  }

  /** A crash on purpose. `down`: it stays down. */
  async kill(wanted: "up" | "down"): Promise<void> {
    this.#wanted = wanted;
    const running = this.#process;
    if (running === null) return;
    running.signal("SIGKILL");
    while (!running.checkDeath() && running.adopted) await sleep(attachRetryMs);
    await running.ended;
  }

  /** For making the data directory: Postgres is down, and `phase` is shown while it lasts. */
  produceData(shown: "cloning" | "starting", produce: () => Promise<void>): Promise<void> {
    return this.exclusively(async () => {
      assert(this.#phase === "absent", "only a node without data gets new data");
      this.#setPhase(shown);
      try {
        await produce();
      } catch (error) {
        this.#setPhase("absent");
        throw error;
      }
      this.#setPhase("stopped");
    });
  }

  exclusively<T>(operation: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(operation);
    this.#tail = result.catch(() => undefined);
    return result;
  }

  /** The connection, as soon as there is one; null when the signal says that it is too late. */
  whenAttached(signal: AbortSignal): Promise<ControlConnection | null> {
    const { connection } = this;
    if (connection !== null) return Promise.resolve(connection);
    if (signal.aborted) return Promise.resolve(null);
    return new Promise((resolve) => {
      const finish = (result: ControlConnection | null): void => {
        this.#waiters.delete(finish);
        signal.removeEventListener("abort", giveUp);
        resolve(result);
      };
      const giveUp = (): void => finish(null);
      this.#waiters.add(finish);
      signal.addEventListener("abort", giveUp, { once: true });
    });
  }

  /** Lets go of Postgres without stopping it. */
  release(): void {
    this.#wanted = "down";
    this.#cancelRestarts();
    this.#connection?.close();
  }

  async #startNow(): Promise<void> {
    if (this.#process !== null || this.#wanted === "down") return;
    const { startOptions, configure, hasData, logger } = this.#options;
    if (this.#phase === "absent" || this.#phase === "cloning")
      throw new Error("there is no data to start from");
    if (!hasData()) {
      await killLeftovers(startOptions.paths.data, leftoversTimeoutMs);
      logger.error("the data directory is gone: this node must be copied anew");
      this.#setPhase("absent");
      throw new Error("the data directory is gone");
    }
    this.#setPhase("starting");
    try {
      if (this.adopt()) return;
      const killed = await killLeftovers(startOptions.paths.data, leftoversTimeoutMs);
      if (killed > 0) logger.info({ processes: killed }, "killed what a dead Postgres had left behind");
      await configure();
      this.#run(await PostgresProcess.start({ ...startOptions, onExit: this.#onExit }));
    } catch (error) {
      this.#onCrash(`could not be started: ${messageOf(error)}`, 0);
      throw error;
    }
  }

  async #stopNow(mode: "fast" | "immediate", timeoutMs: number): Promise<void> {
    const running = this.#process;
    if (running === null) {
      if (this.#phase === "crashed" || this.#phase === "failed") this.#setPhase("stopped");
      return;
    }
    this.#stopping = true;
    this.#setPhase("stopping");
    try {
      const how = await running.stop(mode, timeoutMs);
      this.#options.logger.info({ postgresPid: running.pid }, `Postgres ${how}`);
    } finally {
      this.#stopping = false;
    }
  }

  #run(started: PostgresProcess): void {
    this.#runs++;
    this.#process = started;
    this.#cameUp = started.adopted;
    this.#options.logger.info(
      { postgresPid: started.pid },
      started.adopted ? "adopted a running Postgres" : "started Postgres",
    );
    this.#setPhase("starting");
    this.#attachInBackground(started);
  }

  #onExit = (ended: PostgresProcess, reason: string): void => {
    if (ended !== this.#process) return;
    this.#process = null;
    this.#connection?.close();
    this.#connection = null;
    if (this.#stopping) {
      this.#lastExit = `stopped: ${reason}`;
      this.#setPhase("stopped");
    } else {
      this.#onCrash(reason, performance.now() - ended.startedAtMs);
    }
  };

  /** First the news, then the repair. */
  #onCrash(reason: string, ranMs: number): void {
    const plan = planRestart(this.#history, { ranMs, cameUp: this.#cameUp });
    this.#history = plan.history;
    this.#lastExit = reason;
    this.#setPhase(plan.state);
    this.#options.handlers.crashed(reason);
    if (this.#wanted === "down") return;
    const cancel = new AbortController();
    this.#restart.add(cancel);
    const again = async (): Promise<void> => {
      await sleep(Math.max(plan.delayMs, newsFirstMs), cancel.signal);
      if (!cancel.signal.aborted) await this.exclusively(() => this.#startNow());
    };
    again()
      .catch((error: unknown) => {
        if (!cancel.signal.aborted)
          this.#options.logger.error({ err: error }, "could not start Postgres again");
      })
      .finally(() => this.#restart.delete(cancel));
  }

  #cancelRestarts(): void {
    for (const cancel of this.#restart) cancel.abort();
  }

  #setPhase(phase: PostgresState): void {
    if (phase === this.#phase) return;
    this.#phase = phase;
    this.#options.handlers.changed();
  }

  #attachInBackground(to: PostgresProcess): void {
    this.#attach(to).catch((error: unknown) => {
      this.#options.logger.error({ err: error }, "the control connection failed in an unexpected way");
      if (to === this.#process) setTimeout(() => this.#attachInBackground(to), 1_000);
    });
  }

  /** Tries until the socket answers or the process is gone. */
  async #attach(to: PostgresProcess): Promise<void> {
    const warnAtMs = performance.now() + attachWarnMs;
    let warned = false;
    for (;;) {
      if (to !== this.#process || to.checkDeath() || this.#stoppedForGood()) return;
      if (!warned && performance.now() > warnAtMs) {
        warned = true;
        const { controlSocket } = this.#options.startOptions.paths;
        this.#options.logger.warn(
          { controlSocket },
          "Postgres runs but doesn't answer on its control socket",
        );
      }
      const connection = await this.#open(to);
      if (connection !== null && (await this.#greet(to, connection))) return;
      await sleep(attachRetryMs);
    }
  }

  #stoppedForGood(): boolean {
    return this.#wanted === "down" && !this.#stopping;
  }

  async #open(to: PostgresProcess): Promise<ControlConnection | null> {
    const { paths } = this.#options.startOptions;
    try {
      const connection: ControlConnection = await ControlConnection.open(paths.controlSocket, {
        status: (status) => {
          if (this.#connection !== connection) return;
          this.#cameUp ||= status.consistent;
          this.#options.handlers.status(status);
        },
        end: (reason) => this.#onControlEnd(to, connection, reason),
      });
      return connection;
    } catch (error) {
      if (!isNotListening(error)) this.#options.logger.warn({ err: error }, "can't open the control socket");
      return null;
    }
  }

  /** Asks Postgres for its status now. Without an answer in time, what it said last stays. */
  async refresh(timeoutMs: number): Promise<void> {
    const connection = this.#connection;
    if (connection === null) return;
    const answer = await connection.request({ cmd: "status" }, statusResultSchema, { timeoutMs });
    if (answer.ok && connection === this.#connection) this.#options.handlers.status(answer.value.status);
  }

  async #greet(to: PostgresProcess, connection: ControlConnection): Promise<boolean> {
    const { logger } = this.#options;
    const answer = await connection.request({ cmd: "status" }, statusResultSchema, controlLimits);
    if (!answer.ok || to !== this.#process) {
      connection.close();
      return false;
    }
    this.#connection = connection;
    this.#cameUp ||= answer.value.status.consistent;
    const problem = await this.#introduce(connection, answer.value.status);
    if (problem !== null || to !== this.#process) {
      if (problem !== null) logger.warn({ reason: problem }, "the control socket gave up");
      if (this.#connection === connection) this.#connection = null;
      connection.close();
      return false;
    }
    this.#setPhase("running");
    for (const waiter of [...this.#waiters]) waiter(connection);
    return true;
  }

  /** What went wrong, or null. */
  async #introduce(connection: ControlConnection, status: ControlStatus): Promise<string | null> {
    try {
      this.#options.handlers.attached(connection, status);
      const watching = await connection.watch(this.#options.watchIntervalMs, controlLimits);
      return watching.ok ? null : watching.message;
    } catch (error) {
      return messageOf(error);
    }
  }

  /** For a Postgres that isn't our child, this is how its death is noticed. */
  #onControlEnd(to: PostgresProcess, connection: ControlConnection, reason: string): void {
    if (this.#connection !== connection) return;
    this.#connection = null;
    this.#options.logger.debug({ reason }, "the control connection ended");
    if (!to.checkDeath()) setTimeout(() => this.#attachAgain(to), exitFirstMs);
  }

  /** "Starting" would leave open whether it still leads and answers reads; its end is better news, if it is one. */
  #attachAgain(to: PostgresProcess): void {
    if (to !== this.#process || to.checkDeath() || this.#stoppedForGood()) return;
    if (!this.#stopping) this.#setPhase("starting");
    this.#attachInBackground(to);
  }
}
