/** What the server knows of its users, asked through the gateway's own account and remembered for a short while. */
import { Job } from "../pool/job.ts";
import type { Pool } from "../pool/pool.ts";
import type { WireError } from "../wire/errors.ts";
import type { UserEntry } from "./login.ts";

type Waiting = (found: UserEntry | undefined, error: WireError | undefined) => void;
type Cached = { readonly entry: UserEntry | undefined; readonly atMs: number };

const mostCached = 10_000;
const doubtAfterMs = 1_000;

export class Directory {
  readonly #pool: () => Pool;
  readonly #nowMs: () => number;
  readonly #keepMs: number;
  #cache = new Map<string, Cached>();
  /** How often all was forgotten: what was asked before then may be out of date when the answer comes. */
  #forgotten = 0;
  readonly #asking = new Map<string, Waiting[]>();

  constructor(pool: () => Pool, nowMs: () => number, keepMs: number) {
    this.#pool = pool;
    this.#nowMs = nowMs;
    this.#keepMs = keepMs;
  }

  find(user: string, done: Waiting): void {
    const cached = this.#cache.get(user);
    if (cached !== undefined && this.#nowMs() - cached.atMs < this.#keepMs) {
      done(cached.entry, undefined);
      return;
    }
    const asking = this.#asking.get(user);
    if (asking !== undefined) {
      asking.push(done);
      return;
    }
    this.#asking.set(user, [done]);
    const asked = this.#forgotten;
    new Job(this.#pool(), lookupSql(user), (result) => {
      const waiting = this.#asking.get(user) ?? [];
      this.#asking.delete(user);
      const row = result.rows[0];
      const entry: UserEntry | undefined =
        row === undefined
          ? undefined
          : { verifier: row[0] ?? null, mayLogin: row[1] === "t", expired: row[2] === "t" };
      if (result.error === undefined && asked === this.#forgotten) {
        if (this.#cache.size >= mostCached) this.#cache = new Map();
        this.#cache.set(user, { entry, atMs: this.#nowMs() });
      }
      for (const each of waiting) each(entry, result.error);
    });
  }

  /** The next one who comes as this user causes another look, but not too often. */
  doubt(user: string): void {
    const cached = this.#cache.get(user);
    if (cached !== undefined && this.#nowMs() - cached.atMs >= doubtAfterMs) this.#cache.delete(user);
  }

  forget(): void {
    this.#forgotten++;
    this.#cache = new Map();
  }
}

function lookupSql(user: string): string {
  const quoted = `E'${user.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
  return (
    "SELECT rolpassword, rolcanlogin, COALESCE(rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now(), false) " +
    `FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) ${quoted}`
  );
}
