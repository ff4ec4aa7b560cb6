/**
 * A client's messages, in order: which go on as they are, which are rewritten (names of prepared statements), which
 * are answered here, and which have to wait for a server connection. No allocation per message but for new texts.
 */
import { owed } from "../pool/ring.ts";
import { opaque } from "../text/plan.ts";
import { fe, int32, maxMessageBytes } from "../wire/codec.ts";
import { wireError } from "../wire/errors.ts";
import { admit, wantsFreshTemp } from "./admission.ts";
import type { Client } from "./client.ts";
import { handleBind, handleClose, handleDescribe, handleExecute } from "./execute.ts";
import { keep } from "./kept-request.ts";
import {
  blocked,
  done,
  ended,
  incomplete,
  longestWhole,
  malformed,
  type Outcome,
  readyIdle,
  sendBeginning,
} from "./outcome.ts";
import { handleParse } from "./prepare.ts";
import { handleLost, handleSkipping } from "./without-server.ts";

/** Handles [start, end); gives where the first message starts that has to be kept. */
export function consume(client: Client, bytes: Buffer, start: number, end: number): number {
  const stopped = handleAll(client, bytes, start, end);
  // Answers of our own go out with the server's next one: it costs a call of the system less. Is there none to come?
  const ring = client.server?.ring;
  if (ring?.headIsMade && ring.onlyMade) client.server?.sendMade();
  return stopped;
}

function handleAll(client: Client, bytes: Buffer, start: number, end: number): number {
  let at = start;
  client.needs = 0;
  if (client.server?.retired || client.server?.barred) {
    client.blocked = true;
    return at;
  }
  if (client.streaming > 0) {
    const part = Math.min(client.streaming, end - at);
    client.streamTo?.link.send(bytes, at, at + part);
    client.streaming -= part;
    at += part;
    if (client.streaming === 0) client.streamEnded();
  }
  while (end - at >= 5) {
    const length = int32(bytes, at + 1);
    if (length < 4 || length > maxMessageBytes) {
      client.fatal(wireError("FATAL", "08P01", `invalid message length ${length}`));
      return end;
    }
    const next = at + length + 1;
    const outcome = handle(client, bytes, at, next, end);
    if (outcome === blocked) return at;
    if (outcome === incomplete) {
      client.needs = next - at;
      return at;
    }
    if (outcome === ended) return end;
    if (next > end) {
      client.streaming = next - end;
      return end;
    }
    at = next;
  }
  return at;
}

function handle(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  const type = bytes[at] as number;
  if (client.skipping) return handleSkipping(client, type, next, end);
  if (client.lost) return handleLost(client, bytes, type, at, next, end);
  switch (type) {
    case fe.query:
      return handleQuery(client, bytes, at, next, end);
    case fe.parse:
      return handleParse(client, bytes, at, next, end);
    case fe.bind:
      return handleBind(client, bytes, at, next, end);
    case fe.describe:
      return next > end ? incomplete : handleDescribe(client, bytes, at, next);
    case fe.execute:
      return next > end ? incomplete : handleExecute(client, bytes, at, next);
    case fe.close:
      return next > end ? incomplete : handleClose(client, bytes, at, next);
    case fe.sync:
      if (next - at !== 5) return malformed(client);
      return handleSync(client, bytes, at, next);
    case fe.flush:
      // Refused here: on the server a malformed one would begin an error that nothing owed accounts for.
      if (next - at !== 5) return malformed(client);
      client.server?.link.send(bytes, at, next);
      return done;
    case fe.copyData:
      if (client.server !== undefined && !client.server.skipping)
        sendBeginning(client, client.server, bytes, at, next, end);
      return done;
    case fe.copyDone:
    case fe.copyFail: {
      if (next > end) return incomplete;
      const { server } = client;
      if (server === undefined || server.skipping) return done;
      if (server.copyIn) {
        server.copyIn = false;
        if (server.ring.head === owed.execute) client.unsynced = true; // what Sync came before was ignored
      } else if (server.ring.length > 0) server.ring.push(owed.copyEnd);
      server.link.send(bytes, at, next);
      return done;
    }
    case fe.functionCall: {
      if (next > end) return incomplete;
      const server = client.need();
      if (server === undefined) return blocked;
      if (server.skipping) return done;
      client.needProbe = true;
      server.ring.push(owed.functionCall);
      server.link.send(bytes, at, next);
      return done;
    }
    case fe.terminate:
      client.link.close();
      return ended;
    default:
      client.fatal(wireError("FATAL", "08P01", `invalid frontend message type ${type}`));
      return ended;
  }
}

function handleQuery(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  if (next > end && next - at <= longestWhole) return incomplete;
  const plan = next > end ? opaque : client.pool.host.plans.of(bytes, at + 5, next - 1);
  let server = client.need(client.routes && (client.readOnly || plan.read || plan.readOnly));
  while (server !== undefined && wantsFreshTemp(client, server, plan)) {
    client.swap("its temporary buffers are fixed");
    server = client.need();
  }
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  if (!admit(client, server, plan)) return blocked;
  if (!plan.read && !plan.begins) client.requestReads = false;
  if (!plan.pure) client.otherWork = true;
  keep(client, server, bytes, at, next, end);
  server.ring.push(owed.query, plan.effects === null ? undefined : plan);
  client.unnamed = undefined;
  client.unnamedPortal = undefined;
  server.unnamed = undefined;
  client.unsynced = false;
  client.requests++;
  sendBeginning(client, server, bytes, at, next, end);
  return done;
}

function handleSync(client: Client, bytes: Buffer, at: number, next: number): Outcome {
  const { server } = client;
  if (server === undefined) {
    client.link.send(readyIdle, 0, readyIdle.length);
    return done;
  }
  client.unsynced = false;
  client.parsedUnnamed = false;
  if (client.segmentNames) client.namesPending = true;
  client.segmentNames = false;
  server.skipping = false;
  if (!server.copyIn) server.ring.push(owed.sync);
  server.link.send(bytes, at, next);
  keep(client, server, bytes, at, next, next);
  return done;
}
