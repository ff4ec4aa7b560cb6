/** Everybody who watches this node: each change at once, and a sign of life at the interval that he asked for. */
import type { NodeStatus, Subscription, WatchRequest } from "@quorate/proto";

const minIntervalMs = 20;

export class Watchers {
  readonly #current: () => NodeStatus;
  readonly #subscriptions = new Set<Subscription>();

  /** `current` makes a new status (with a new seq) each time. */
  constructor(current: () => NodeStatus) {
    this.#current = current;
  }

  get count(): number {
    return this.#subscriptions.size;
  }

  add(request: WatchRequest, subscription: Subscription): void {
    this.#subscriptions.add(subscription);
    const interval = setInterval(
      () => subscription.send(this.#current()),
      Math.max(request.intervalMs, minIntervalMs),
    );
    subscription.signal.addEventListener(
      "abort",
      () => {
        clearInterval(interval);
        this.#subscriptions.delete(subscription);
      },
      { once: true },
    );
    subscription.send(this.#current());
  }

  publish(): void {
    if (this.#subscriptions.size === 0) return;
    const status = this.#current();
    for (const subscription of this.#subscriptions) subscription.send(status);
  }

  end(): void {
    for (const subscription of this.#subscriptions) subscription.end();
  }
}
