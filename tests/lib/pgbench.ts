// pgbench as load. It gives up when its server dies, so it is started again until it is stopped; libpq finds the leader.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import type { TestCluster } from "./cluster.ts";

const initTimeoutMs = 120_000;

export interface PgbenchOptions {
  readonly scale?: number;
  readonly clients?: number;
}

export class Pgbench {
  readonly #cluster: TestCluster;
  readonly #clients: number;
  readonly #scale: number;
  #child: ChildProcess | undefined;
  #running = false;
  #ended: Promise<void> | undefined;
  runs = 0;

  constructor(cluster: TestCluster, { scale = 2, clients = 4 }: PgbenchOptions = {}) {
    this.#cluster = cluster;
    this.#clients = clients;
    this.#scale = scale;
  }

  get #program(): string {
    return path.join(this.#cluster.bin, "pgbench");
  }

  async initialize(): Promise<void> {
    const args = ["-i", "-q", "-s", String(this.#scale), this.#cluster.urlOfAll];
    await promisify(execFile)(this.#program, args, { timeout: initTimeoutMs });
  }

  start(): void {
    this.#running = true;
    this.#ended = this.#loop();
  }

  async stop(): Promise<void> {
    this.#running = false;
    this.#child?.kill("SIGTERM");
    await this.#ended;
  }

  async #loop(): Promise<void> {
    while (this.#running) {
      const startedMs = performance.now();
      this.runs += 1;
      await new Promise<void>((resolve) => {
        const args = [
          "-n",
          "-M",
          "prepared",
          "-c",
          String(this.#clients),
          "-T",
          "3600",
          this.#cluster.urlOfAll,
        ];
        this.#child = spawn(this.#program, args, { stdio: "ignore" });
        this.#child.once("error", () => resolve());
        this.#child.once("exit", () => resolve());
      });
      // A dead cluster refuses at once: not in a tight loop.
      const restMs = 100 - (performance.now() - startedMs);
      if (this.#running && restMs > 0) await new Promise((resolve) => setTimeout(resolve, restMs));
    }
  }
}
