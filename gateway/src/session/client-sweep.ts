/** Looks at all clients a few times a second: limits of time, and those who are to go. */
import type { Server } from "../pool/server.ts";
import { txIdle } from "../wire/codec.ts";
import { wireError } from "../wire/errors.ts";
import type { Worker } from "../worker.ts";
import type { Client } from "./client.ts";
import { type ClientTimes, judgeTimes } from "./time-limits.ts";

/** A request that is being cancelled may take so long to end; then its connection is closed. */
const cancelMs = 5_000;
/** Clients that left in the middle of a request are few: they are looked for now and then. */
const everySo = 8;

export class ClientSweep {
  readonly #worker: Worker;
  #round = 0;

  constructor(worker: Worker) {
    this.#worker = worker;
  }

  run(nowMs: number): void {
    this.#round = (this.#round + 1) % everySo;
    const limited = [...this.#worker.pools.values()].some(
      ({ limits }) =>
        limits.requestMs + limits.transactionMs + limits.idleInTransactionMs + limits.clientIdleMs > 0,
    );
    if (!limited && !this.#worker.draining && this.#round !== 0) return;
    for (const client of this.#worker.clients.values()) this.#look(client, nowMs);
  }

  #look(client: Client, nowMs: number): void {
    const { config, draining } = this.#worker;
    const { server } = client;
    if (client.gone) {
      if (server !== undefined && nowMs - client.requestSinceMs > config.limits.abandonedMs)
        server.close("abandoned by its client");
      return;
    }
    if (draining && server === undefined && !client.blocked) {
      client.fatal(wireError("FATAL", "57P01", "the gateway is shutting down"));
      return;
    }
    const verdict = judgeTimes(timesOf(client), client.pool.limits, nowMs);
    if (verdict.kind === "none") return;
    if (verdict.kind === "cancel" && server !== undefined) {
      if (server.cancelReason === undefined) {
        server.cancelReason = verdict.error;
        this.#worker.cancelRequest(client, server);
        return;
      }
      if (nowMs - client.requestSinceMs < client.pool.limits.requestMs + cancelMs) return;
      server.close("its request could not be cancelled");
      return;
    }
    if (server !== undefined) this.#worker.cancelRequest(client, server);
    client.fatal(verdict.error);
  }
}

function timesOf(client: Client): ClientTimes {
  const { server, requestSinceMs, transactionSinceMs, idleSinceMs } = client;
  return { state: stateOf(client, server), requestSinceMs, transactionSinceMs, idleSinceMs };
}

export function stateOf(client: Client, server: Server | undefined): ClientTimes["state"] {
  if (client.waiting || (server === undefined && client.blocked)) return "waiting";
  if (server === undefined) return "idle";
  if (server.ring.length > 0 || client.unsynced) return "active";
  return server.status === txIdle ? "idle" : "idle in transaction";
}
