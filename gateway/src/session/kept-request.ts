/** A copy of a request for as long as it might have to be made again. */
import type { Server } from "../pool/server.ts";
import { copyBytes, giveBuffer, takeBuffer } from "../wire/buffer.ts";
import { txIdle } from "../wire/codec.ts";
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
