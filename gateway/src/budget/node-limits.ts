/**
 * How many server connections there may be to each node, and how many there are: in memory that all workers share. The
 * main thread writes shares, each worker its own counts, so that a worker that ends leaves nothing behind.
 */
const mostNodes = 256;
/** Of each node: its share, and whether more was asked for in vain. */
const nodeInts = 2;
/** Of each node and worker: connections that are open or being opened, and how many there could be use for. */
const workerInts = 2;

export type NodeSlots = Readonly<Record<string, number>>;

export type NodeUse = {
  readonly node: string;
  readonly limit: number;
  readonly leased: boolean;
  readonly open: number;
  readonly wants: number;
};

/** The same on all threads. */
export const sharedClockMs = (): number => Number(process.hrtime.bigint() / 1_000n) / 1_000;

export class NodeLimits {
  readonly buffer: SharedArrayBuffer;
  /** Where each node's numbers are; the main thread gives places, and tells the others. */
  slots: NodeSlots = {};
  readonly #expiry: Float64Array;
  readonly #nodes: Int32Array;
  readonly #workers: Int32Array;
  readonly #own: number;
  /** One number, behind those of the nodes. */
  readonly #unleasedAt = mostNodes;

  constructor(buffer: SharedArrayBuffer, workerId: number) {
    this.buffer = buffer;
    this.#expiry = new Float64Array(buffer, 0, mostNodes + 1);
    this.#nodes = new Int32Array(buffer, (mostNodes + 1) * 8, mostNodes * nodeInts);
    this.#workers = new Int32Array(buffer, (mostNodes + 1) * 8 + mostNodes * nodeInts * 4);
    this.#own = workerId * mostNodes * workerInts;
  }

  static bufferFor(workers: number): SharedArrayBuffer {
    return new SharedArrayBuffer((mostNodes + 1) * 8 + mostNodes * (nodeInts + workers * workerInts) * 4);
  }

  /** What a node gets without a lease; Infinity where nobody leases: then there is no limit per node. */
  set unleased(count: number) {
    this.#expiry[this.#unleasedAt] = count;
  }

  get unleased(): number {
    return this.#expiry[this.#unleasedAt] as number;
  }

  /** Gives places to nodes that are new; those that are gone keep theirs, as they may come back. */
  register(nodes: Iterable<string>): void {
    for (const node of nodes) {
      const used = Object.keys(this.slots).length;
      if (this.slots[node] === undefined && used < mostNodes) this.slots = { ...this.slots, [node]: used };
    }
  }

  setShare(node: string, share: number, capped: boolean, expiresAtMs: number): void {
    const slot = this.slots[node];
    if (slot === undefined) return;
    Atomics.store(this.#nodes, slot * nodeInts, share);
    Atomics.store(this.#nodes, slot * nodeInts + 1, capped ? 1 : 0);
    this.#expiry[slot] = expiresAtMs;
  }

  /** Nobody leases any more: what was leased counts no longer. */
  endShares(): void {
    this.#expiry.fill(Number.NEGATIVE_INFINITY, 0, mostNodes);
  }

  limit(node: string): number {
    const slot = this.slots[node];
    if (slot === undefined || !this.#isLeased(slot)) return this.unleased;
    return Atomics.load(this.#nodes, slot * nodeInts);
  }

  #isLeased(slot: number): boolean {
    return (this.#expiry[slot] as number) > sharedClockMs();
  }

  /** All that it can have now: asking for more is in vain. */
  capped(node: string): boolean {
    const slot = this.slots[node];
    return (
      slot === undefined || !this.#isLeased(slot) || Atomics.load(this.#nodes, slot * nodeInts + 1) === 1
    );
  }

  open(node: string): number {
    return this.#sum(node, 0);
  }

  wants(node: string): number {
    return this.#sum(node, 1);
  }

  #sum(node: string, which: 0 | 1): number {
    const slot = this.slots[node];
    if (slot === undefined) return 0;
    let sum = 0;
    for (let at = slot * workerInts + which; at < this.#workers.length; at += mostNodes * workerInts)
      sum += Atomics.load(this.#workers, at);
    return sum;
  }

  ownOpen(node: string): number {
    const slot = this.slots[node];
    return slot === undefined ? 0 : Atomics.load(this.#workers, this.#own + slot * workerInts);
  }

  /**
   * A place for one more connection. It is counted before it is looked at, so that two workers that want the last place
   * get none rather than both; they try again.
   */
  reserve(node: string): boolean {
    const slot = this.slots[node];
    if (slot === undefined) return this.unleased === Number.POSITIVE_INFINITY;
    Atomics.add(this.#workers, this.#own + slot * workerInts, 1);
    if (this.open(node) <= this.limit(node)) return true;
    this.closed(node);
    return false;
  }

  closed(node: string): void {
    const slot = this.slots[node];
    if (slot !== undefined) Atomics.sub(this.#workers, this.#own + slot * workerInts, 1);
  }

  setWants(node: string, wants: number): void {
    const slot = this.slots[node];
    if (slot !== undefined) Atomics.store(this.#workers, this.#own + slot * workerInts + 1, wants);
  }

  /** This worker's part of what is open beyond the limit. */
  excess(node: string): number {
    const open = this.open(node);
    const over = open - this.limit(node);
    return over <= 0 ? 0 : Math.ceil((over * this.ownOpen(node)) / open);
  }

  /** The worker has ended. */
  clear(): void {
    for (let at = 0; at < mostNodes * workerInts; at++) Atomics.store(this.#workers, this.#own + at, 0);
  }

  get all(): NodeUse[] {
    return Object.entries(this.slots).map(([node, slot]) => ({
      node,
      limit: this.limit(node),
      leased: this.#isLeased(slot),
      open: this.open(node),
      wants: this.wants(node),
    }));
  }
}
