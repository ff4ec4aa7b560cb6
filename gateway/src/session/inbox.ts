/** What a client has sent and can't be handled yet. */
import { copyBytes, giveBuffer, takeBuffer } from "../wire/buffer.ts";
import { nothing } from "./client-host.ts";

export class Inbox {
  #bytes: Buffer = nothing;
  length = 0;
  /** The length of its first message, if that must be complete before it can be handled. */
  #needs = 0;

  add(bytes: Buffer, start: number, end: number, needs: number): void {
    const length = this.length + end - start;
    if (this.#bytes.length < length) {
      const larger = takeBuffer(Math.max(length, needs, Math.min(length * 2, 1 << 20)));
      copyBytes(this.#bytes, 0, this.length, larger, 0);
      giveBuffer(this.#bytes);
      this.#bytes = larger;
    }
    copyBytes(bytes, start, end, this.#bytes, this.length);
    this.length = length;
    if (needs > 0) this.#needs = needs;
  }

  get complete(): boolean {
    return this.length >= this.#needs;
  }

  get first(): number | undefined {
    return this.length > 0 ? this.#bytes[0] : undefined;
  }

  /** Its buffer, of which `length` bytes count, which is to be given back; it is empty then. */
  take(): Buffer {
    const bytes = this.#bytes;
    this.clear();
    return bytes;
  }

  clear(): void {
    this.#bytes = nothing;
    this.length = 0;
    this.#needs = 0;
  }

  /** Leaves the first message out; gives how many bytes of it are still to come. */
  dropFirst(): number {
    const total = this.#bytes.readUInt32BE(1) + 1;
    const missing = total - this.length;
    this.#needs = 0;
    if (missing > 0) {
      this.length = 0;
      return missing;
    }
    this.#bytes.copyWithin(0, total, this.length);
    this.length -= total;
    return 0;
  }
}
