/** What cancel requests are known by: a process id that was told to a client, and a secret. */
import { randomFillSync } from "node:crypto";
import { backendKeyData } from "../wire/build.ts";
import { int32 } from "../wire/codec.ts";

type Key = { readonly processId: number; readonly secret: Buffer };

export class CancelKeys {
  readonly #keys = new Map<number, Key>();
  /** Those of a process id: servers' ids and ids of our own making may be the same by chance. */
  readonly #ids = new Map<number, number[]>();

  /** BackendKeyData for the client with this id. */
  add(id: number, processId: number, minorVersion: number): Buffer {
    const secret = this.#random(minorVersion >= 2 ? 32 : 4);
    this.#keys.set(id, { processId, secret });
    const ids = this.#ids.get(processId);
    if (ids === undefined) this.#ids.set(processId, [id]);
    else ids.push(id);
    return backendKeyData(processId, secret);
  }

  /** Many at once: each call of the generator costs as much as all of these. */
  #random(length: number): Buffer {
    if (this.#drawn + length > this.#pool.length) {
      randomFillSync(this.#pool);
      this.#drawn = 0;
    }
    const secret = Buffer.from(this.#pool.subarray(this.#drawn, this.#drawn + length));
    this.#drawn += length;
    return secret;
  }
  readonly #pool = Buffer.alloc(4096);
  #drawn = this.#pool.length;

  forget(id: number): void {
    const key = this.#keys.get(id);
    if (key === undefined) return;
    this.#keys.delete(id);
    const others = (this.#ids.get(key.processId) ?? []).filter((each) => each !== id);
    if (others.length === 0) this.#ids.delete(key.processId);
    else this.#ids.set(key.processId, others);
  }

  /** The client whose key this is. */
  find(key: Uint8Array): number | undefined {
    const secret = key.subarray(4);
    return this.#ids.get(int32(key, 0))?.find((id) => this.#keys.get(id)?.secret.equals(secret));
  }
}
