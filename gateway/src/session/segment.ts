/** Where a request of the extended protocol may go. */
import { fe, int32, zeroAt } from "../wire/codec.ts";
import type { Client } from "./client.ts";

/**
 * Whether all statements from here to Sync only read. Where that can't be seen yet, the leader is right in any case.
 * `[at, end)` begins with a message.
 */
export function segmentReads(client: Client, bytes: Buffer, at: number, end: number): boolean {
  if (client.readOnly) return true;
  if (client.server !== undefined) return false;
  for (let start = at; end - start >= 5; ) {
    const next = start + int32(bytes, start + 1) + 1;
    if (next > end) return false;
    switch (bytes[start]) {
      case fe.parse: {
        const nameEnd = zeroAt(bytes, start + 5, next);
        const textEnd = nameEnd < 0 ? -1 : zeroAt(bytes, nameEnd + 1, next);
        if (textEnd < 0) return false;
        const plan = client.pool.host.plans.of(bytes, nameEnd + 1, textEnd);
        if (!plan.read && !plan.readOnly) return false;
        break;
      }
      case fe.bind: {
        const portalEnd = zeroAt(bytes, start + 5, next);
        const nameEnd = portalEnd < 0 ? -1 : zeroAt(bytes, portalEnd + 1, next);
        if (nameEnd < 0) return false;
        // An unnamed one was parsed in this segment, or is the last; a name that is given here was looked at above.
        const name = bytes.latin1Slice(portalEnd + 1, nameEnd);
        const plan = (name === "" ? client.unnamed : client.statements?.get(name))?.plan;
        if (plan !== undefined && !plan.read && !plan.readOnly) return false;
        break;
      }
      case fe.sync:
        return true;
      case fe.describe:
      case fe.execute:
      case fe.close:
        break;
      default:
        return false;
    }
    start = next;
  }
  return false;
}
