// The clock of one machine: its monotonic time runs a little faster or slower than the world's, its wall clock jumps.

export class Clock {
  /** Local milliseconds per millisecond of the world. */
  readonly rate: number;
  #wallOffsetMs = 0;

  constructor(rate: number) {
    this.rate = rate;
  }

  monotonicMs(worldMs: number): number {
    return worldMs * this.rate;
  }

  wallMs(worldMs: number): number {
    return this.monotonicMs(worldMs) + this.#wallOffsetMs;
  }

  jump(ms: number): void {
    this.#wallOffsetMs += ms;
  }

  /** How long the world waits while this clock counts so much. */
  worldDelayMs(localDelayMs: number): number {
    return localDelayMs / this.rate;
  }
}
