/** What cancel requests are known by: a process id that was told to a client, and a secret. */
import "../wire/buffer.ts";
import { randomFillSync } from "node:crypto";
import { be, putInt32 } from "../wire/codec.ts";

/** Of a BackendKeyData message: what comes before the process id. */
const headBytes = 5;

export class CancelKeys {
  /** By process id and secret as they are sent: two strings' worth per client, whatever else there is. */
  readonly #ids = new Map<string, number>();
  readonly #keys = new Map<number, string>();

  /** BackendKeyData for the client with this id. */
  add(id: number, processId: number, minorVersion: number): Buffer {
    this.forget(id);
    const secretBytes = minorVersion >= 2 ? 32 : 4;
    const message = Buffer.allocUnsafe(headBytes + 4 + secretBytes);
    message[0] = be.backendKeyData;
    putInt32(message, 1, message.length - 1);
    putInt32(message, headBytes, processId);
    let key: string;
    do {
      this.#draw(message, headBytes + 4);
      key = message.latin1Slice(headBytes);
    } while (this.#ids.has(key)); // servers' ids and ids of our own making may be the same by chance
    this.#ids.set(key, id);
    this.#keys.set(id, key);
    return message;
  }

  /** Many at once: each call of the generator costs as much as all of these. */
  #draw(into: Buffer, at: number): void {
    if (this.#drawn + into.length - at > this.#pool.length) {
      randomFillSync(this.#pool);
      this.#drawn = 0;
    }
    for (let each = at; each < into.length; each++) {
      into[each] = this.#pool[this.#drawn] as number;
      this.#pool[this.#drawn++] = 0;
    }
  }
  readonly #pool = Buffer.alloc(4096);
  #drawn = this.#pool.length;

  forget(id: number): void {
    const key = this.#keys.get(id);
    if (key === undefined) return;
    this.#keys.delete(id);
    this.#ids.delete(key);
  }

  /** The client whose key this is. */
  find(key: Uint8Array): number | undefined {
    return this.#ids.get(Buffer.from(key.buffer, key.byteOffset, key.length).latin1Slice());
  }
}
