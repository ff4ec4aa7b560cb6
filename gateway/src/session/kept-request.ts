/** A copy of a request for as long as it might have to be made again. */
import type { Server } from "../pool/server.ts";
import { copyBytes, giveBuffer, takeBuffer } from "../wire/buffer.ts";
import { fe, int32, txIdle, zeroAt } from "../wire/codec.ts";
import type { Client } from "./client.ts";
import { keptRequestBytes } from "./client-host.ts";

/** Keeps a copy of an extended-protocol message while the request might have to be made again. */
export function keep(
  client: Client,
  server: Server,
  bytes: Buffer,
  at: number,
  next: number,
  end: number,
): void {
  if (client.keptLength < 0) return;
  const length = next - at;
  if (server.status !== txIdle || next > end || client.keptLength + length > keptRequestBytes) {
    client.keptLength = -1;
    return;
  }
  let { kept } = client;
  if (kept === undefined || kept.length < client.keptLength + length) {
    const larger = takeBuffer((client.keptLength + length) * 2);
    if (kept !== undefined) {
      copyBytes(kept, 0, client.keptLength, larger, 0);
      giveBuffer(kept);
    }
    kept = larger;
    client.kept = larger;
  }
  copyBytes(bytes, at, next, kept, client.keptLength);
  client.keptLength += length;
}

/**
 * Whether everything that the request executes is parsed or described in it, too: only then does the client not rely
 * on an older description, which another plan would belie.
 */
export function describesAll(request: Buffer): boolean {
  const told = new Set<string>();
  let unsure = false;
  for (let at = 0; at + 5 <= request.length; ) {
    const next = at + int32(request, at + 1) + 1;
    const name = (from: number): string => request.latin1Slice(from, zeroAt(request, from, next));
    switch (request[at]) {
      case fe.parse:
        told.add(name(at + 5));
        break;
      case fe.describe:
        if (request[at + 5] === 0x53) told.add(name(at + 6));
        else unsure = false;
        break;
      case fe.bind:
        if (unsure) return false;
        unsure = !told.has(name(zeroAt(request, at + 5, next) + 1));
        break;
      case fe.execute:
        if (unsure) return false;
        break;
      default:
        break;
    }
    at = next;
  }
  return true;
}
