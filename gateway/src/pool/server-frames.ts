/**
 * The messages of a server as they come: framed, never decoded. Rows pass as ranges of the shared read buffer; only the
 * few messages that tell something about the session's state are given to the class that knows what they mean.
 */
import { type Link, queueHighBytes } from "../transport/transport.ts";
import { be, int32, maxMessageBytes } from "../wire/codec.ts";
import type { Holder } from "./holder.ts";
import { owed, Ring } from "./ring.ts";

/** Messages that must be here as a whole before they are handled. */
const whole = new Uint8Array(256);
for (const type of [
  be.commandComplete,
  be.readyForQuery,
  be.error,
  be.notice,
  be.parameterStatus,
  be.rowDescription,
  be.parameterDescription,
  be.parseComplete,
  be.bindComplete,
  be.closeComplete,
  be.noData,
  be.portalSuspended,
  be.emptyQuery,
  be.authentication,
  be.backendKeyData,
  be.negotiateVersion,
  be.notification,
]) {
  whole[type] = 1;
}
/** A server that sends a longer control message than this is broken. */
const longestControl = 16 * 1024 * 1024;

export abstract class ServerFrames {
  link!: Link;
  readonly ring = new Ring();
  phase: "login" | "ready" | "closed" = "login";
  holder: Holder | undefined;
  /** Answers that the client has seen since its request began. */
  answersSeen = 0;
  /** What the client gets in the place of the message that is being handled. */
  protected instead: Buffer | undefined;
  protected skipsFrom: Holder | undefined;
  protected paused = false;
  #passing = 0;
  #passOn = false;
  #carry: Buffer = emptyBuffer;
  #carryLength = 0;

  protected abstract loginMessage(bytes: Buffer, start: number, end: number): void;
  /** True: the client gets it. */
  protected abstract message(type: number, bytes: Buffer, start: number, end: number): boolean;
  /** An answer to a query of our own. */
  protected abstract internalMessage(type: number, bytes: Buffer, start: number, end: number): boolean;
  /** ReadyForQuery in [start, end); what is before it from `run` on hasn't been forwarded yet. */
  protected abstract ready(bytes: Buffer, run: number, start: number, end: number): void;
  /** Answers of our own that are due now. */
  abstract sendMade(): void;
  abstract close(reason: string): void;

  get plain(): boolean {
    return this.phase === "ready";
  }

  data(bytes: Buffer, start: number, end: number): void {
    let at = start;
    if (this.#passing > 0) {
      const part = Math.min(this.#passing, end - at);
      if (this.#passOn) this.holder?.link.send(bytes, at, at + part);
      this.#passing -= part;
      at += part;
    }
    if (this.#carryLength > 0 && at < end) at = this.#finishCarry(bytes, at, end);
    if (at < end) {
      at = this.#scan(bytes, at, end);
      if (at < end && this.phase !== "closed") this.#keep(bytes, at, end);
    }
    const holder = this.holder;
    if (holder !== undefined && !this.paused && holder.link.queued > queueHighBytes) {
      this.paused = true;
      this.link.pause();
    }
  }

  #keep(bytes: Buffer, start: number, end: number): void {
    const length = this.#carryLength + end - start;
    if (this.#carry.length < length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(64, length * 2));
      larger.set(this.#carry.subarray(0, this.#carryLength));
      this.#carry = larger;
    }
    this.#carry.set(bytes.subarray(start, end), this.#carryLength);
    this.#carryLength = length;
  }

  /** Completes the message whose beginning has been kept; gives where its end is in `bytes`. */
  #finishCarry(bytes: Buffer, start: number, end: number): number {
    let at = start;
    if (this.#carryLength < 5) {
      const stop = Math.min(end, at + 5 - this.#carryLength);
      this.#keep(bytes, at, stop);
      at = stop;
      if (this.#carryLength < 5) return end;
    }
    const total = int32(this.#carry, 1) + 1;
    const needsAll =
      whole[this.#carry[0] as number] === 1 || this.ring.head === owed.internal || this.phase === "login";
    if (needsAll && total > this.#carryLength && total <= longestControl) {
      const stop = Math.min(end, at + total - this.#carryLength);
      this.#keep(bytes, at, stop);
      at = stop;
      if (this.#carryLength < total) return end;
    }
    const carry = this.#carry;
    const length = this.#carryLength;
    this.#carryLength = 0;
    this.#scan(carry, 0, length);
    if (this.#carry.length > 65_536) this.#carry = emptyBuffer;
    if (this.#passing > 0 && at < end) {
      const part = Math.min(this.#passing, end - at);
      if (this.#passOn) this.holder?.link.send(bytes, at, at + part);
      this.#passing -= part;
      at += part;
    }
    return at;
  }

  protected forward(bytes: Buffer, start: number, end: number): void {
    if (end > start) this.holder?.link.send(bytes, start, end);
  }

  /** Handles all messages in [start, end); gives where the first incomplete one starts that must be complete. */
  #scan(bytes: Buffer, start: number, end: number): number {
    let at = start;
    let run = start;
    while (end - at >= 5) {
      const type = bytes[at] as number;
      const length = int32(bytes, at + 1);
      if (length < 4 || length > maxMessageBytes) return this.broken(`message of length ${length}`, end);
      const next = at + length + 1;
      if (this.ring.headIsMade) {
        this.forward(bytes, run, at);
        run = at;
        this.sendMade();
      }
      const internal = this.ring.head === owed.internal;
      if ((type === be.dataRow || type === be.copyData) && !internal) {
        if (next <= end) {
          at = next;
          continue;
        }
        this.forward(bytes, run, end);
        this.answersSeen++;
        this.#passing = next - end;
        this.#passOn = true;
        return end;
      }
      if (next > end && (internal || whole[type] === 1 || this.phase === "login")) {
        if (length > longestControl) return this.broken(`control message of length ${length}`, end);
        break;
      }
      const upTo = Math.min(next, end);
      if (this.phase === "login") {
        run = next; // nothing of a login is for a client, not even for one that gets the server at its end
        this.loginMessage(bytes, at, next);
      } else if (type === be.readyForQuery) {
        this.ready(bytes, run, at, next);
        run = next;
      } else {
        const passOn = internal
          ? this.internalMessage(type, bytes, at, next)
          : this.message(type, bytes, at, next);
        if (!passOn) {
          this.forward(bytes, run, at);
          run = upTo;
          if (this.instead !== undefined) {
            this.holder?.link.send(this.instead, 0, this.instead.length);
            this.instead = undefined;
          }
        }
        if (this.skipsFrom !== undefined && next <= end) {
          this.forward(bytes, run, next);
          run = next;
          const skips = this.skipsFrom;
          this.skipsFrom = undefined;
          skips.serverSkips();
        }
        if (this.ring.headIsMade) {
          this.forward(bytes, run, upTo);
          run = upTo;
          this.sendMade();
        }
        if (next > end) {
          this.forward(bytes, run, end);
          this.#passing = next - end;
          this.#passOn = passOn;
          return end;
        }
      }
      if (this.phase === "closed") return end;
      at = next;
    }
    this.forward(bytes, run, at);
    return at;
  }

  protected broken(reason: string, end: number): number {
    this.close(`the server broke the protocol: ${reason}`);
    return end;
  }
}

const emptyBuffer: Buffer = Buffer.alloc(0);
