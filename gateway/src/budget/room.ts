/**
 * Whether a worker may open one more server connection: within its gateway's own limit, and within its share of the
 * node's. Who has idle ones makes room for those whose clients wait.
 */
import type { Pool } from "../pool/pool.ts";
import type { Counters } from "../workers/counters.ts";
import type { NodeLimits } from "./node-limits.ts";

export type RoomOptions = {
  readonly counters: Counters;
  readonly limits: NodeLimits;
  /** Clients wait for connections to this node, and its limit is reached. */
  readonly wantMore: (node: string) => void;
  /** The limit is reached, and none of this worker's own is idle: others are asked. */
  readonly makeRoom: () => void;
};

const askAgainMs = 100;

export class Room {
  readonly #options: RoomOptions;
  readonly #pools: ReadonlyMap<string, Pool>;
  /** Server connections of others than pools. */
  readonly #others: () => number;
  readonly #nowMs: () => number;
  #askedAtMs = Number.NEGATIVE_INFINITY;

  constructor(
    options: RoomOptions,
    pools: ReadonlyMap<string, Pool>,
    others: () => number,
    nowMs: () => number,
  ) {
    this.#options = options;
    this.#pools = pools;
    this.#others = others;
    this.#nowMs = nowMs;
  }

  /** `node`: where the connection would go to; a place there is taken if the answer is yes. */
  take(wanting: Pool, node: string, total: number): boolean {
    const { counters, limits } = this.#options;
    if (!limits.reserve(node)) {
      this.#nodeIsFull(wanting, node);
      return false;
    }
    if (counters.reserve("servers", this.#count(), total)) return true;
    for (const pool of this.#pools.values()) {
      if (pool !== wanting && pool.waitingCount === 0 && pool.giveUpIdle()) return true;
    }
    limits.closed(node);
    this.#ask();
    return false;
  }

  /** A connection to this node doesn't exist any more. */
  gone(node: string): void {
    this.#options.limits.closed(node);
    for (const pool of this.#pools.values())
      if (pool.waitingCount > 0 && pool.endpoint?.node === node) pool.openMore();
  }

  /**
   * More is asked for than is open, however much of that is idle in other pools; if there is no more, one of those makes
   * room.
   */
  #nodeIsFull(wanting: Pool, node: string): void {
    const waiting = this.#sum(node, (pool) => pool.waitingCount);
    const { limits } = this.#options;
    limits.setWants(
      node,
      Math.max(
        this.#sum(node, ({ wants }) => wants),
        limits.ownOpen(node) + waiting,
      ),
    );
    if (!this.#options.limits.capped(node)) {
      this.#options.wantMore(node);
      return;
    }
    for (const pool of this.#pools.values()) {
      if (pool !== wanting && pool.endpoint?.node === node && pool.waitingCount === 0 && pool.giveUpIdle())
        return;
    }
    this.#ask();
  }

  #ask(): void {
    const now = this.#nowMs();
    if (now - this.#askedAtMs <= askAgainMs) return;
    this.#askedAtMs = now;
    this.#options.makeRoom();
  }

  /** Another worker wants a connection to a server, and the limit is reached. */
  make(): void {
    for (const pool of this.#pools.values()) {
      if (pool.waitingCount === 0 && pool.giveUpIdle()) break;
    }
    this.#tellCount();
  }

  /** Shares have changed: there may be room for those who wait, or too much is open. */
  changed(): void {
    for (const pool of this.#pools.values()) if (pool.waitingCount > 0) pool.openMore();
    this.sweep();
  }

  /** Tells the others how much is open and wanted here, and ends what is too much. */
  sweep(): void {
    this.#tellCount();
    const { limits } = this.#options;
    for (const node of Object.keys(limits.slots)) {
      this.#tellWants(node);
      let excess = limits.excess(node);
      for (const pool of this.#pools.values()) {
        if (pool.endpoint?.node !== node) continue;
        const count = Math.min(excess, pool.servers.size);
        pool.giveUp(count);
        excess -= count;
      }
    }
  }

  #tellWants(node: string): void {
    this.#options.limits.setWants(
      node,
      this.#sum(node, ({ wants }) => wants),
    );
  }

  #sum(node: string, of: (pool: Pool) => number): number {
    let sum = 0;
    for (const pool of this.#pools.values()) if (pool.endpoint?.node === node) sum += of(pool);
    return sum;
  }

  #tellCount(): void {
    this.#options.counters.set("servers", this.#count());
  }

  #count(): number {
    let count = this.#others();
    for (const pool of this.#pools.values()) count += pool.servers.size;
    return count;
  }
}
