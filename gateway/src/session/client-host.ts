/** What stands around a client: its worker, and what takes the place of a link that is gone. */
import type { Pool } from "../pool/pool.ts";
import type { Server } from "../pool/server.ts";
import type { Link } from "../transport/transport.ts";
import type { Client } from "./client.ts";

/** What a client needs of its worker. */
export type ClientHost = {
  nowMs(): number;
  clientGone(client: Client): void;
  /** The pool of the follower that should answer a read of this client, if there is one. */
  reader(client: Client): Pool | undefined;
  /** Asks the server to cancel what it is doing for this client. */
  cancelRequest(client: Client, server: Server): void;
  /** A request is done: for the statistics. */
  requestDone(client: Client, startedAtMs: number): void;
};

export const nothing: Buffer = Buffer.alloc(0);

/** Takes the place of a link that is gone. */
export const deadLink: Link = {
  send() {},
  queued: 0,
  pause() {},
  resume() {},
  close() {},
  destroy() {},
  peer: "gone",
};

/** A blocked client may send so much before it is read no further. */
export const keptWhileBlocked = 64 * 1024;

/** Largest request of extended-protocol messages that is kept for making it again. */
export const keptRequestBytes = 16 * 1024;
