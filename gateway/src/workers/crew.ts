/**
 * Several workers, each on a thread of its own, that share a port. The main thread watches who leads, passes on what
 * one worker has for another (cancel requests, the console's commands) and puts their answers together.
 */
import path from "node:path";
import { Worker as Thread } from "node:worker_threads";
import type { Logger } from "@quorate/common";
import type { Table } from "../admin/console.ts";
import { NodeLimits } from "../budget/node-limits.ts";
import type { Config } from "../config.ts";
import type { LeaderSource } from "../route/leader-source.ts";
import { Counters } from "./counters.ts";
import { mergeMetrics, mergeTables, type Part } from "./merge.ts";
import type { Answer, FromThread, ThreadData, ToThread } from "./messages.ts";

export type CrewOptions = {
  readonly config: Config;
  readonly leaders: LeaderSource;
  readonly log: Logger;
  readonly reload: () => void;
  readonly shutdown: () => void;
  readonly limits: NodeLimits;
  readonly wantMore: (node: string) => void;
};

const restartMs = 1_000;
const answerMs = 5_000;
/** This file's own ending: sources run as TypeScript, a published package as JavaScript. */
const threadFile = new URL(`./thread${path.extname(import.meta.filename)}`, import.meta.url);

export class Crew {
  readonly #options: CrewOptions;
  readonly #threads: (Thread | undefined)[] = [];
  readonly #buffer: SharedArrayBuffer;
  readonly #asked = new Map<number, (answer: Answer) => void>();
  readonly #unsubscribe: () => void;
  #config: Config;
  #nextId = 0;
  #port = 0;
  #over = false;
  #drained = 0;
  #whenDrained: (() => void) | undefined;

  constructor(options: CrewOptions) {
    this.#options = options;
    this.#config = this.#share(options.config);
    this.#buffer = Counters.bufferFor(options.config.workers);
    this.#unsubscribe = options.leaders.subscribe((view) => {
      const { limits } = options;
      this.#tellAll({ kind: "view", view, slots: limits.slots });
    });
  }

  /** Each worker has its part of a pool's connections; all other limits are counted together. */
  #share(config: Config): Config {
    const { workers, pool } = config;
    return { ...config, pool: { ...pool, size: Math.ceil(pool.size / workers) } };
  }

  get port(): number {
    return this.#port;
  }

  get readPort(): number | undefined {
    return this.#config.listen.readPort;
  }

  async start(): Promise<void> {
    this.#port = await this.#start(0, this.#config.listen.port);
    for (let id = 1; id < this.#config.workers; id++) await this.#start(id, this.#port);
  }

  #start(workerId: number, port: number): Promise<number> {
    const { leaders, log, limits } = this.#options;
    const workerData: ThreadData = {
      config: this.#config,
      workerId,
      port,
      view: leaders.view,
      counters: this.#buffer,
      limits: limits.buffer,
      slots: limits.slots,
    };
    const thread = new Thread(threadFile, { workerData });
    this.#threads[workerId] = thread;
    return new Promise((resolve, reject) => {
      let listening = false;
      thread.on("message", (message: FromThread) => {
        if (message.kind === "listening") {
          listening = true;
          resolve(message.port);
        } else if (message.kind === "failed") reject(new Error(message.reason));
        else this.#hear(thread, message);
      });
      thread.on("error", (error) => log.error({ error, worker: workerId }, "a worker has failed"));
      thread.on("exit", (code) => {
        new Counters(this.#buffer, workerId).clear();
        new NodeLimits(limits.buffer, workerId).clear();
        this.#threads[workerId] = undefined;
        if (!listening) reject(new Error(`worker ${workerId} ended with code ${code}`));
        else if (!this.#over) this.#restartLater(workerId);
      });
    });
  }

  #restartLater(workerId: number): void {
    this.#options.log.error({ worker: workerId }, "a worker has ended with its clients; another is started");
    setTimeout(() => {
      if (this.#over) return;
      this.#start(workerId, this.#port).catch((error: unknown) => {
        this.#options.log.error({ error, worker: workerId }, "a worker could not be started");
        if (this.#threads[workerId] === undefined) this.#restartLater(workerId);
      });
    }, restartMs);
  }

  #hear(from: Thread, message: FromThread): void {
    const { log, reload, shutdown } = this.#options;
    switch (message.kind) {
      case "cancel":
        for (const each of this.#threads) if (each !== from) tell(each, { kind: "cancel", key: message.key });
        return;
      case "make-room":
        for (const each of this.#threads) if (each !== from) tell(each, { kind: "make-room" });
        return;
      case "want-more":
        this.#options.wantMore(message.node);
        return;
      case "answer":
        this.#asked.get(message.id)?.(message.answer);
        this.#asked.delete(message.id);
        return;
      case "everywhere":
        this.#everywhere(message.words).then((answer) =>
          tell(from, { kind: "result", id: message.id, answer }),
        );
        return;
      case "reload":
        reload();
        return;
      case "shutdown":
        shutdown();
        return;
      case "drained":
        this.#drained++;
        if (this.#drained >= this.#threads.filter((each) => each !== undefined).length) this.#whenDrained?.();
        return;
      case "log":
        log[message.level](message.fields, message.text);
        return;
      default:
        return;
    }
  }

  #tellAll(message: ToThread): void {
    for (const each of this.#threads) tell(each, message);
  }

  /** One thread's answer; undefined when it doesn't give one in time. */
  #ask(thread: Thread, message: (id: number) => ToThread): Promise<Answer | undefined> {
    const id = this.#nextId++;
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#asked.delete(id);
        resolve(undefined);
      }, answerMs);
      this.#asked.set(id, (answer) => {
        clearTimeout(timer);
        resolve(answer);
      });
      tell(thread, message(id));
    });
  }

  async #askAll(message: (id: number) => ToThread): Promise<Answer[]> {
    const threads = this.#threads.filter((each) => each !== undefined);
    const answers = await Promise.all(threads.map((each) => this.#ask(each, message)));
    return answers.filter((each) => each !== undefined);
  }

  async #everywhere(words: readonly string[]): Promise<Table | { readonly error: string }> {
    const answers = await this.#askAll((id) => ({ kind: "command", id, words }));
    const parts = answers.filter((each): each is Part => "table" in each);
    if (parts.length > 0) return mergeTables(words, parts);
    const refusal = answers.find((each) => "error" in each);
    return refusal ?? { error: "no worker has answered" };
  }

  async metrics(): Promise<string> {
    const answers = await this.#askAll((id) => ({ kind: "metrics", id }));
    return mergeMetrics(answers.flatMap((each) => ("metrics" in each ? [each.metrics] : [])));
  }

  limitsChanged(): void {
    this.#tellAll({ kind: "limits" });
  }

  reconfigure(config: Config): void {
    this.#config = this.#share(config);
    this.#tellAll({ kind: "config", config: this.#config });
  }

  async drain(): Promise<void> {
    this.#over = true;
    const drained = new Promise<void>((resolve) => {
      this.#whenDrained = resolve;
    });
    this.#tellAll({ kind: "drain" });
    await drained;
    await this.close();
  }

  async close(): Promise<void> {
    this.#over = true;
    this.#unsubscribe();
    await Promise.all(this.#threads.map((each) => each?.terminate()));
  }
}

function tell(thread: Thread | undefined, message: ToThread): void {
  thread?.postMessage(message);
}
