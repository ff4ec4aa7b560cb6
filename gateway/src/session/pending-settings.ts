/**
 * Settings changed inside a transaction hold for the session only if it commits; savepoints nest. This keeps the
 * changes of the open transaction in order, with markers for savepoints.
 */
import type { Effect } from "../text/plan.ts";
import type { Change } from "./settings.ts";

type Entry = { readonly savepoint: string } | Change;

export class PendingSettings {
  #entries: Entry[] = [];

  get empty(): boolean {
    return this.#entries.length === 0;
  }

  /**
   * A statement with an effect has completed. Gives the changes that have become the session's, if it ended a
   * transaction; `rolledBack` is told by its tag (COMMIT of a failed transaction answers ROLLBACK).
   */
  completed(effect: Effect, rolledBack: boolean): readonly Change[] | undefined {
    switch (effect.kind) {
      case "set":
        this.#entries.push({ name: effect.name, value: effect.value });
        return undefined;
      case "reset-all":
        this.#entries.push("reset-all");
        return undefined;
      case "commit":
        return rolledBack ? this.discard() : this.take();
      case "rollback":
        return this.discard();
      case "savepoint":
        this.#entries.push({ savepoint: effect.name });
        return undefined;
      case "rollback-to": {
        const at = this.#lastSavepoint(effect.name);
        if (at >= 0) this.#entries.length = at + 1;
        return undefined;
      }
      case "release": {
        const at = this.#lastSavepoint(effect.name);
        if (at >= 0) {
          this.#entries = this.#entries.filter(
            (entry, index) => index < at || typeof entry === "string" || !("savepoint" in entry),
          );
        }
        return undefined;
      }
      default:
        return undefined;
    }
  }

  /** What has changed, in order, if the transaction commits. */
  get changes(): readonly Change[] {
    return this.#entries.filter(
      (entry): entry is Change => typeof entry === "string" || !("savepoint" in entry),
    );
  }

  /** The transaction has committed: its changes are the session's. */
  take(): readonly Change[] {
    const { changes } = this;
    this.#entries = [];
    return changes;
  }

  discard(): undefined {
    this.#entries = [];
    return undefined;
  }

  #lastSavepoint(name: string): number {
    for (let at = this.#entries.length - 1; at >= 0; at--) {
      const entry = this.#entries[at];
      if (typeof entry === "object" && "savepoint" in entry && entry.savepoint === name) return at;
    }
    return -1;
  }
}
