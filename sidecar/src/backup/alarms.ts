/** What someone must look at, since when. Each source has at most one alarm, and clears it itself. */
import type { BackupFailure } from "./backup-failures.ts";
import type { Alarm } from "./backup-report.ts";

export type AlarmSource =
  | "repository"
  | "archiver"
  | "lag"
  | "gap"
  | "age"
  | "backup"
  | "restoreTest"
  | "verify";

export type AlarmChange = { readonly kind: "raised" | "cleared"; readonly alarm: Alarm };

export class Alarms {
  readonly #active = new Map<AlarmSource, Alarm>();
  readonly #changed: (change: AlarmChange) => void;

  /** `changed`: told when one begins or ends, not when only its words change. */
  constructor(changed: (change: AlarmChange) => void) {
    this.#changed = changed;
  }

  set(source: AlarmSource, failure: BackupFailure | null): void {
    const old = this.#active.get(source);
    if (failure === null) {
      if (this.#active.delete(source) && old !== undefined) this.#changed({ kind: "cleared", alarm: old });
      return;
    }
    const { code, message, todo } = failure;
    const goesOn = old?.code === code;
    const alarm = { code, message, todo, since: goesOn ? old.since : new Date().toISOString() };
    this.#active.set(source, alarm);
    if (!goesOn) this.#changed({ kind: "raised", alarm });
  }

  clear(...sources: readonly AlarmSource[]): void {
    for (const source of sources) this.set(source, null);
  }

  has(source: AlarmSource): boolean {
    return this.#active.has(source);
  }

  /** One of each code. */
  list(): Alarm[] {
    return [...new Map([...this.#active.values()].reverse().map((alarm) => [alarm.code, alarm])).values()];
  }
}
