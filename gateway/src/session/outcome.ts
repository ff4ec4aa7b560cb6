/** What became of a message, and answers that several kinds of messages share. */
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import { serverNamePrefix } from "../pool/statements.ts";
import { message, readyForQuery } from "../wire/build.ts";
import { fe, txFailed, txIdle } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import type { Client } from "./client.ts";

/** Longer statements are passed on in parts and pin their client: they can't be looked at. */
export const longestWhole = 64 * 1024 * 1024;

export const readyIdle = readyForQuery(txIdle);
export const readyFailed = readyForQuery(txFailed);

/** What became of a message. */
export const done = 0;
/** It waits for a server: kept from its start. */
export const blocked = 1;
/** More of it must be here first. */
export const incomplete = 2;
/** The client is not spoken to any more. */
export const ended = 3;
export type Outcome = 0 | 1 | 2 | 3;

/** As much of a message as is here; the rest follows to the same server. */
export function sendBeginning(
  client: Client,
  server: Server,
  bytes: Buffer,
  at: number,
  next: number,
  end: number,
): void {
  server.link.send(bytes, at, Math.min(next, end));
  if (next > end) client.streamTo = server;
}

/** Asks the server for something that fails, and has its error replaced: the order of answers stays right. */
export function fail(client: Client, server: Server, error: WireError): Outcome {
  client.failures ??= [];
  client.failures.push(errorBytes(error));
  server.ring.push(owed.failing);
  const bind = message(fe.bind, `\0${serverNamePrefix}none\0`, Buffer.alloc(6));
  server.link.send(bind, 0, bind.length);
  client.unsynced = true;
  return done;
}

export function malformed(client: Client): Outcome {
  client.fatal(wireError("FATAL", "08P01", "invalid message format"));
  return ended;
}
