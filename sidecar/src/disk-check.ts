/**
 * Does the node's disk still take writes? A hung disk makes no error and no noise: Postgres goes on to answer and to
 * send heartbeats, only nothing is ever flushed again. So a little is written and synced every now and then.
 */
import { open } from "node:fs/promises";
import { messageOf } from "@quorate/common";

export type DiskCheckOptions = {
  readonly file: string;
  readonly intervalMs: number;
  /** Once per failure in a row (a full disk, say). */
  readonly onError: (message: string) => void;
};

export class DiskCheck {
  readonly #options: DiskCheckOptions;
  #sinceMs: number | null = null;
  #timer: NodeJS.Timeout | undefined;
  #failing = false;

  constructor(options: DiskCheckOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => void this.#check(), this.#options.intervalMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** For how long the write that is under way has been waiting; 0 when none is. */
  get stuckMs(): number {
    return this.#sinceMs === null ? 0 : Math.round(performance.now() - this.#sinceMs);
  }

  async #check(): Promise<void> {
    if (this.#sinceMs !== null) return;
    this.#sinceMs = performance.now();
    try {
      const file = await open(this.#options.file, "w", 0o600);
      try {
        await file.writeFile(`${Date.now()}\n`);
        await file.datasync();
      } finally {
        await file.close();
      }
      this.#failing = false;
    } catch (error) {
      // What can't be written is a fact, not a wait: Postgres will say so itself.
      if (!this.#failing) this.#options.onError(messageOf(error));
      this.#failing = true;
    } finally {
      this.#sinceMs = null;
    }
  }
}
