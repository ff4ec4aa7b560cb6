/** What stands around a client: its worker, and what takes the place of a link that is gone. */
import type { Link } from "../transport/transport.ts";
import type { Client } from "./client.ts";

/** What a client needs of its worker. */
export type ClientHost = {
  nowMs(): number;
  clientGone(client: Client): void;
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
