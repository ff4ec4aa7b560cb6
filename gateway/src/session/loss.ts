/** What a client is told when its server connection is lost. */
import type { Server } from "../pool/server.ts";
import { readyForQuery } from "../wire/build.ts";
import { txFailed, txIdle } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import type { ClientState } from "./client-state.ts";

export function pinnedSessionLost(reason: string, inFlight: boolean): WireError {
  return wireError("FATAL", "57P01", `the server connection of this session was lost: ${reason}`, {
    detail: inFlight ? "Whether the request in flight was executed is unknown." : "No request was in flight.",
    hint: "The session's state on the server is gone with it: connect again.",
  });
}

function rolledBack(reason: string): WireError {
  const text = `the transaction was rolled back: the connection to its server was lost (${reason})`;
  return wireError("ERROR", "40001", text, {
    hint: "Nothing of it was committed; the transaction can be repeated.",
  });
}

function outcomeUnknown(reason: string): WireError {
  return wireError("ERROR", "08007", `outcome unknown: the connection to the server was lost (${reason})`, {
    hint: "The request may or may not have been executed: look before you repeat it.",
  });
}

const requestLost: WireError = wireError("ERROR", "08006", "the connection to the server was lost");

function send(client: ClientState, bytes: Buffer): void {
  client.link.send(bytes, 0, bytes.length);
}

/** What the loss means for a client that isn't pinned, whose session goes on. */
export function tellLoss(client: ClientState, server: Server, reason: string, inFlight: boolean): void {
  client.pending = undefined;
  const open = server.status !== txIdle || client.unsynced;
  if (!inFlight && !open) return;
  if (!inFlight || (open && !server.ring.mayDo("commit"))) {
    // Without COMMIT the transaction is certainly not committed.
    client.lost = true;
    if (!inFlight) return;
    send(client, errorBytes(rolledBack(reason)));
    endRequests(client, server, txFailed);
    return;
  }
  send(client, errorBytes(outcomeUnknown(reason)));
  endRequests(client, server, txIdle);
}

/** One ReadyForQuery for each request that is owed one. */
function endRequests(client: ClientState, server: Server, status: number): void {
  const owedReady = server.ring.countReady();
  for (let each = 0; each < owedReady; each++) {
    if (each > 0) send(client, errorBytes(requestLost));
    send(client, readyForQuery(status));
  }
  if (client.unsynced) {
    client.skipping = true;
    client.unsynced = false;
  }
  client.link.resume();
}
