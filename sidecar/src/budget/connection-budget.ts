/** The budget of this node's Postgres, from its own settings, and the leases on it. */
import { type LeaseTable, newLeaseTable, type Renewal, release, renew } from "./lease-table.ts";

export type ConnectionBudgetOptions = {
  /** Left to operators, monitoring, and whoever else connects past the gateways. */
  readonly reserved: number;
  /** What sidecar.json says, for as long as Postgres can't be asked. */
  readonly configured: number;
  /** Which run of Postgres this is; null: it can't be asked now. */
  readonly run: () => number | null;
  /** Connections that it has for those without privileges. */
  readonly ask: () => Promise<number>;
  readonly nowMs?: () => number;
  readonly leaseMs?: number;
  readonly onError: (error: unknown) => void;
};

export type Leased = { readonly share: number; readonly expiresMs: number; readonly budget: number };

/** Asked again so soon when it didn't answer. */
const retryMs = 1_000;

export class ConnectionBudget {
  readonly #options: ConnectionBudgetOptions;
  readonly #nowMs: () => number;
  #table: LeaseTable;
  #knownOfRun: number | null = null;
  #connections: number;
  #askAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ConnectionBudgetOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#connections = options.configured;
    this.#table = newLeaseTable(this.#nowMs(), options.leaseMs);
  }

  get budget(): number {
    return Math.max(0, this.#connections - this.#options.reserved);
  }

  /** What is given away now. */
  get leased(): number {
    const nowMs = this.#nowMs();
    return [...this.#table.holders.values()].reduce(
      (sum, { held, expiresAtMs }) => sum + (expiresAtMs > nowMs ? held : 0),
      0,
    );
  }

  lease(renewal: Renewal): Leased {
    this.#askSometimes();
    const nowMs = this.#nowMs();
    this.#table = renew(this.#table, renewal, this.budget, nowMs);
    const holder = this.#table.holders.get(renewal.holder);
    return {
      share: holder?.share ?? 0,
      expiresMs: holder === undefined ? 0 : Math.max(0, holder.expiresAtMs - nowMs),
      budget: this.budget,
    };
  }

  end(holder: string): void {
    this.#table = release(this.#table, holder);
  }

  /** Once for each run of Postgres: these settings change with a restart only. */
  #askSometimes(): void {
    const { run, ask, onError } = this.#options;
    const now = run();
    if (now === null || now === this.#knownOfRun || this.#nowMs() < this.#askAtMs) return;
    this.#askAtMs = this.#nowMs() + retryMs;
    ask().then(
      (connections) => {
        this.#connections = connections;
        this.#knownOfRun = now;
      },
      (error: unknown) => onError(error),
    );
  }
}
