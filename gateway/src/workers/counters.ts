/**
 * What all workers have together, in memory that they share: limits are the gateway's, not each worker's. A worker
 * writes its own slots only, so that a worker that ends leaves nothing behind.
 */
export type Counted = "clients" | "servers";

const kinds = { clients: 0, servers: 1 } as const;
const slotsPerWorker = 2;

export class Counters {
  readonly buffer: SharedArrayBuffer;
  readonly #slots: Int32Array;
  readonly #own: number;

  constructor(buffer: SharedArrayBuffer, workerId: number) {
    this.buffer = buffer;
    this.#slots = new Int32Array(buffer);
    this.#own = workerId * slotsPerWorker;
  }

  static bufferFor(workers: number): SharedArrayBuffer {
    return new SharedArrayBuffer(workers * slotsPerWorker * 4);
  }

  set(kind: Counted, count: number): void {
    Atomics.store(this.#slots, this.#own + kinds[kind], count);
  }

  total(kind: Counted): number {
    let sum = 0;
    for (let slot = kinds[kind]; slot < this.#slots.length; slot += slotsPerWorker)
      sum += Atomics.load(this.#slots, slot);
    return sum;
  }

  /**
   * One more than `own`, if that is within the limit. Told to the others before it is looked at, so that two workers
   * that want the last place get none rather than both; they try again.
   */
  reserve(kind: Counted, own: number, limit: number): boolean {
    this.set(kind, own + 1);
    if (this.total(kind) <= limit) return true;
    this.set(kind, own);
    return false;
  }

  /** The worker has ended. */
  clear(): void {
    this.set("clients", 0);
    this.set("servers", 0);
  }
}
