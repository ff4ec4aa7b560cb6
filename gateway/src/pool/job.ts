/** A query of the gateway itself on a pool: it waits for a connection like a client, and gives it back at once. */
import { noSettings, nothingReported, type Reported } from "../session/settings.ts";
import type { Link } from "../transport/transport.ts";
import type { WireError } from "../wire/errors.ts";
import type { InternalResult } from "./holder.ts";
import type { Pool } from "./pool.ts";
import type { Server } from "./server.ts";
import type { Waiter } from "./waiters.ts";

const noLink: Link = {
  send() {},
  queued: 0,
  pause() {},
  resume() {},
  close() {},
  destroy() {},
  peer: "gateway",
};

export class Job implements Waiter {
  readonly link = noLink;
  readonly gone = false;
  readonly processId = 0;
  readonly settings = noSettings;
  reported: Reported = nothingReported;
  waitingSinceMs = 0;
  waiting = false;
  readonly #pool: Pool;
  readonly #sql: string;
  readonly #done: (result: InternalResult) => void;

  constructor(pool: Pool, sql: string, done: (result: InternalResult) => void) {
    this.#pool = pool;
    this.#sql = sql;
    this.#done = done;
    const server = pool.acquire(this);
    if (server !== undefined) this.granted(server);
  }

  granted(server: Server): void {
    server.internal(this.#sql, (result) => {
      if (server.phase !== "closed") this.#pool.release(server);
      this.#done(result);
    });
  }

  refused(error: WireError): void {
    this.#done({ error, rows: [] });
  }

  completed(): void {}
  undo(): void {}
  beforeReady(): boolean {
    return true;
  }
  described(): void {}
  describedTypes(): void {}
  serverSkips(): void {}
  afterReady(): void {}
  failingError(): Buffer {
    return Buffer.alloc(0);
  }
  staleStatement(): boolean {
    return false;
  }
  serverEnding(): boolean {
    return false;
  }
  followerFailed(): boolean {
    return false;
  }
  takeBack(): void {}
  takenBack(): boolean {
    return false;
  }
  serverLost(): void {}
  yieldServer(): boolean {
    return false;
  }
  serverDrained(): void {}
}
