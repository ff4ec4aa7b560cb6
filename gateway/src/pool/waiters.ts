/** Clients that wait for a connection, in the order in which they get one. */
import type { Settings } from "../session/settings.ts";
import type { WireError } from "../wire/errors.ts";
import type { Holder } from "./holder.ts";
import type { Server } from "./server.ts";

/** A client that waits for a connection. */
export interface Waiter extends Holder {
  readonly settings: Settings;
  /** It takes only a connection that nobody has had before. */
  readonly own?: boolean;
  waitingSinceMs: number;
  /** False once it has gone, so that it needn't be searched in the queue. */
  waiting: boolean;
  granted(server: Server): void;
  /** No connection can be had. `raw`: the server's own words. */
  refused(error: WireError, raw: Buffer | undefined): void;
}

/** A queue that gives its places up now and then, not at each step. */
export class Waiters {
  #queue: Waiter[] = [];
  #head = 0;
  count = 0;

  add(client: Waiter): void {
    this.#queue.push(client);
    this.count++;
  }

  /** In front of all others: it had its turn already. */
  addFirst(client: Waiter): void {
    if (this.#head > 0) this.#queue[--this.#head] = client;
    else this.#queue.unshift(client);
    this.count++;
  }

  /** It waits no longer. */
  remove(client: Waiter): void {
    if (!client.waiting) return;
    client.waiting = false;
    const at = this.#queue.indexOf(client, this.#head);
    if (at < 0) return;
    this.#queue.splice(at, 1);
    this.count--;
  }

  /** Takes out the one that has waited longest. */
  next(): Waiter | undefined {
    while (this.#head < this.#queue.length) {
      const client = this.#takeHead();
      if (client.waiting) return client;
    }
    return undefined;
  }

  /** Takes out the one that has waited longest if it began to wait by then. */
  nextSince(sinceMs: number): Waiter | undefined {
    while (this.#head < this.#queue.length) {
      const oldest = this.#queue[this.#head] as Waiter;
      if (oldest.waiting && oldest.waitingSinceMs > sinceMs) return undefined;
      this.#takeHead();
      if (oldest.waiting) return oldest;
    }
    return undefined;
  }

  longestWaitMs(nowMs: number): number {
    const oldest = this.#queue[this.#head];
    return oldest === undefined ? 0 : nowMs - oldest.waitingSinceMs;
  }

  #takeHead(): Waiter {
    const client = this.#queue[this.#head] as Waiter;
    this.#head++;
    if (this.#head > 64 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    this.count--;
    return client;
  }
}
