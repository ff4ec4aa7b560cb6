/**
 * One output slab per worker. Everything that is sent to one link in a row is gathered in it and goes out with one
 * write, when another link's turn comes or the loop's turn ends.
 */
export interface Writable {
  /** Writes the view; true if the network took all of it, so that the slab may be used again. */
  write(view: Buffer): boolean;
}

const slabBytes = 64 * 1024;

export class Outbox {
  #slab: Buffer = Buffer.allocUnsafeSlow(slabBytes);
  /** Views by length: a view object costs more than the copying of a short message. */
  #views: (Buffer | undefined)[] = [];
  #length = 0;
  #target: Writable | undefined;
  #scheduled = false;
  /** True while a link's data is being handled: whoever handles it flushes at its end. */
  #inTurn = false;

  add(target: Writable, bytes: Uint8Array, start: number, end: number): void {
    if (target !== this.#target) {
      if (this.#length > 0) this.flush();
      this.#target = target;
    }
    let at = start;
    while (slabBytes - this.#length < end - at) {
      const part = slabBytes - this.#length;
      this.#slab.set(bytes.subarray(at, at + part), this.#length);
      this.#length = slabBytes;
      at += part;
      this.flush();
      this.#target = target;
    }
    const length = end - at;
    if (length <= 64) {
      const slab = this.#slab;
      for (let from = at, to = this.#length; from < end; from++, to++) slab[to] = bytes[from] as number;
    } else {
      this.#slab.set(at === 0 && end === bytes.length ? bytes : bytes.subarray(at, end), this.#length);
    }
    this.#length += length;
    if (!this.#inTurn && !this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.flush();
      });
    }
  }

  flush(): void {
    const length = this.#length;
    const target = this.#target;
    this.#length = 0;
    this.#target = undefined;
    if (length === 0 || target === undefined) return;
    let view = length < 4096 ? this.#views[length] : undefined;
    if (view === undefined) {
      view = this.#slab.subarray(0, length);
      if (length < 4096) this.#views[length] = view;
    }
    if (!target.write(view)) {
      this.#slab = Buffer.allocUnsafeSlow(slabBytes);
      this.#views = [];
    }
  }

  beginTurn(): void {
    this.#inTurn = true;
  }

  endTurn(): void {
    this.#inTurn = false;
    if (this.#length > 0) this.flush();
  }
}
