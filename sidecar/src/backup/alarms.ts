/** What someone must look at, since when; raised and cleared by code. */
import type { BackupFailure } from "./backup-failures.ts";
import type { Alarm } from "./backup-report.ts";

export class Alarms {
  readonly #active = new Map<string, Alarm>();

  raise({ code, message, todo }: BackupFailure): void {
    const since = this.#active.get(code)?.since ?? new Date().toISOString();
    this.#active.set(code, { code, message, todo, since });
  }

  clear(...codes: readonly string[]): void {
    for (const code of codes) this.#active.delete(code);
  }

  list(): Alarm[] {
    return [...this.#active.values()];
  }
}
