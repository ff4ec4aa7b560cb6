/** Messages of a client whose request has failed, or whose transaction is gone with its server. */
import { commandComplete } from "../wire/build.ts";
import { fe, zeroAt } from "../wire/codec.ts";
import { errorBytes, wireError } from "../wire/errors.ts";
import type { Client } from "./client.ts";
import { done, ended, incomplete, type Outcome, readyFailed, readyIdle } from "./outcome.ts";
import { handleParse } from "./prepare.ts";

/** After an error of our own in the extended protocol: nothing counts until Sync. */
export function handleSkipping(client: Client, type: number, next: number, end: number): Outcome {
  if (type === fe.terminate) {
    client.link.close();
    return ended;
  }
  if (type === fe.sync) {
    if (next > end) return incomplete;
    client.skipping = false;
    client.unsynced = false;
    const answer = client.lost ? readyFailed : readyIdle;
    client.link.send(answer, 0, answer.length);
  }
  return done;
}

/** The transaction's server is gone: like a failed transaction, until the client ends it. */
export function handleLost(
  client: Client,
  bytes: Buffer,
  type: number,
  at: number,
  next: number,
  end: number,
): Outcome {
  if (next > end) return type === fe.copyData ? done : incomplete;
  const refuse = (): Outcome => {
    send(
      client,
      errorBytes(
        wireError(
          "ERROR",
          client.lostTold ? "25P02" : "40001",
          "the transaction was rolled back: the connection to its server was lost",
          {
            hint: "Nothing of it was committed; end it with ROLLBACK and repeat it.",
          },
        ),
      ),
    );
    client.lostTold = true;
    return done;
  };
  switch (type) {
    case fe.query: {
      const text = bytes.latin1Slice(at + 5, next - 1);
      if (/^\s*(rollback|abort|commit|end)\b(?!.*\bto\b)/i.test(text)) {
        client.lost = false;
        client.lostTold = false;
        send(client, commandComplete("ROLLBACK"));
        send(client, readyIdle);
        return done;
      }
      refuse();
      send(client, readyFailed);
      return done;
    }
    case fe.sync:
      send(client, readyFailed);
      return done;
    case fe.terminate:
      client.link.close();
      return ended;
    case fe.parse: {
      const text = bytes.latin1Slice(zeroAt(bytes, at + 5, next) + 1, next);
      if (/^\s*(rollback|abort|commit|end)\b(?!.*\bto\b)/i.test(text)) {
        client.lost = false; // goes to a server, which answers with a warning that there is no transaction
        client.lostTold = false;
        return handleParse(client, bytes, at, next, end);
      }
      refuse();
      client.skipping = true;
      return done;
    }
    case fe.copyData:
    case fe.copyDone:
    case fe.copyFail:
    case fe.flush:
      return done;
    default:
      refuse();
      client.skipping = true;
      return done;
  }
}

function send(client: Client, bytes: Buffer): void {
  client.link.send(bytes, 0, bytes.length);
}
