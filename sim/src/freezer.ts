// A process that may be stopped for a while (SIGSTOP, a long pause): what should happen in it meanwhile happens
// afterwards, in the same order.

import type { EventQueue } from "./queue.ts";

export class Freezer {
  readonly #queue: EventQueue;
  #waiting: (() => void)[] = [];
  #frozen = false;
  #epoch = 0;

  constructor(queue: EventQueue) {
    this.#queue = queue;
  }

  freeze(ms: number): void {
    this.#frozen = true;
    this.#epoch += 1;
    const epoch = this.#epoch;
    this.#queue.after(ms, () => {
      if (this.#epoch === epoch) {
        this.thaw();
      }
    });
  }

  thaw(): void {
    this.#frozen = false;
    this.#epoch += 1;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const action of waiting) {
      action();
    }
  }

  /** The process ended: what waited in it never happens. */
  clear(): void {
    this.#frozen = false;
    this.#epoch += 1;
    this.#waiting = [];
  }

  run(action: () => void): void {
    if (this.#frozen) {
      this.#waiting.push(action);
    } else {
      action();
    }
  }
}
