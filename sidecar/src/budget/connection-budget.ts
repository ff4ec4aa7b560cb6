/** The budget of this node's Postgres, from its own settings, and the leases on it. */
import type { LeaseFile } from "./lease-file.ts";
import {
  continuedTable,
  type Kept,
  type LeaseTable,
  newLeaseTable,
  type Renewal,
  release,
  renew,
} from "./lease-table.ts";

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
  /** Without it a sidecar that starts anew knows of no lease. */
  readonly file?: LeaseFile;
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
  /** By the file. */
  #saved: ReadonlyMap<string, number> = new Map();
  readonly #loaded: Promise<void>;
  #askAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ConnectionBudgetOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#connections = options.configured;
    this.#table = newLeaseTable(this.#nowMs(), options.leaseMs);
    this.#loaded = this.#load();
  }

  async #load(): Promise<void> {
    const { file, leaseMs } = this.#options;
    const kept = await file?.load();
    if (kept === undefined || kept === null) return;
    this.#table = continuedTable(kept, this.#nowMs(), leaseMs);
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

  async lease(renewal: Renewal): Promise<Leased> {
    await this.#loaded;
    this.#askSometimes();
    const nowMs = this.#nowMs();
    this.#table = renew(this.#table, renewal, this.budget, nowMs);
    const holder = this.#table.holders.get(renewal.holder);
    const expiresAtMs = holder?.expiresAtMs ?? nowMs;
    const answer = { share: holder?.share ?? 0, budget: this.budget };
    // Before he hears of it: the next run of the sidecar must know at least as much.
    if ((holder?.held ?? 0) > (this.#saved.get(renewal.holder) ?? 0)) await this.#save();
    return { ...answer, expiresMs: Math.max(0, Math.floor(expiresAtMs - this.#nowMs())) };
  }

  async #save(): Promise<void> {
    await this.#options.file?.save(() => {
      const kept: Kept[] = [...this.#table.holders].map(([holder, { held }]) => ({ holder, held }));
      this.#saved = new Map(kept.map(({ holder, held }) => [holder, held]));
      return kept;
    });
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
