// The network: loss, delay, duplicates, reordering, partitions by direction. Replication connections keep their
// order, and break as a whole when one of their messages is lost.

import type { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";

export interface NetworkOptions {
  readonly loss: number;
  readonly duplicate: number;
  readonly delayMs: number;
  /** Probability and length of a long delay. */
  readonly stall: number;
  readonly stallMs: number;
}

export class Network {
  readonly #queue: EventQueue;
  readonly #seed: number;
  options: NetworkOptions;
  readonly #blocked = new Map<string, number>();
  readonly #slow = new Map<string, number>();
  readonly #streams = new Map<string, Random>();
  readonly #broken = new Set<string>();
  readonly #lastArrival = new Map<string, number>();

  constructor(queue: EventQueue, seed: number, options: NetworkOptions) {
    this.#queue = queue;
    this.#seed = seed;
    this.options = options;
  }

  block(from: string, to: string): void {
    const key = `${from}>${to}`;
    this.#blocked.set(key, (this.#blocked.get(key) ?? 0) + 1);
  }

  unblock(from: string, to: string): void {
    const key = `${from}>${to}`;
    const count = (this.#blocked.get(key) ?? 0) - 1;
    if (count > 0) {
      this.#blocked.set(key, count);
    } else {
      this.#blocked.delete(key);
    }
  }

  heal(): void {
    this.#blocked.clear();
    this.#slow.clear();
  }

  /** One direction of one connection takes so much longer. */
  slow(from: string, to: string, extraMs: number): void {
    this.#slow.set(`${from}>${to}`, extraMs);
  }

  open(from: string, to: string): boolean {
    return !this.#blocked.has(`${from}>${to}`);
  }

  #random(from: string, to: string): Random {
    const key = `${from}>${to}`;
    let random = this.#streams.get(key);
    if (random === undefined) {
      random = Random.stream(this.#seed, key);
      this.#streams.set(key, random);
    }
    return random;
  }

  #delay(random: Random, key: string): number {
    const { delayMs, stall, stallMs } = this.options;
    const extraMs = this.#slow.get(key) ?? 0;
    return extraMs + (random.chance(stall) ? random.between(delayMs, stallMs) : random.between(0.1, delayMs));
  }

  /** A datagram: may be lost, doubled, overtaken. */
  datagram(from: string, to: string, deliver: () => void, mayRepeat = true): void {
    const random = this.#random(from, to);
    const lost = random.chance(this.options.loss);
    const again = random.chance(this.options.duplicate);
    const first = this.#delay(random, `${from}>${to}`);
    const second = this.#delay(random, `${from}>${to}`);
    if (!this.open(from, to) || lost) {
      return;
    }
    this.#queue.after(first, deliver);
    if (again && mayRepeat) {
      this.#queue.after(first + second, deliver);
    }
  }

  /** A message on a connection. */
  stream(from: string, to: string, conn: string, deliver: () => void): void {
    const random = this.#random(from, to);
    const lost = random.chance(this.options.loss * 0.3);
    const delay = this.#delay(random, `${from}>${to}`);
    if (this.#broken.has(conn)) {
      return;
    }
    if (!this.open(from, to) || lost) {
      this.#broken.add(conn);
      return;
    }
    const key = `${conn}>${to}`;
    const arrival = Math.max(this.#queue.nowMs + delay, this.#lastArrival.get(key) ?? 0);
    this.#lastArrival.set(key, arrival);
    this.#queue.at(arrival, deliver);
  }
}
