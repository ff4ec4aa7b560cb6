/** What comes from a client: handled at once, or kept while it waits; it is read no further when too much is kept. */
import { queueHighBytes } from "../transport/transport.ts";
import { giveBuffer } from "../wire/buffer.ts";
import { keptWhileBlocked } from "./client-host.ts";
import { ClientRepeats } from "./client-repeats.ts";
import { Inbox } from "./inbox.ts";

export abstract class ClientInput extends ClientRepeats {
  protected readonly inbox = new Inbox();
  protected pausedForServer = false;

  data(bytes: Buffer, start: number, end: number): void {
    if (this.blocked || this.inbox.length > 0) {
      this.#keep(bytes, start, end, 0);
      if (this.blocked || !this.inbox.complete) return;
      this.consumeInbox();
      return;
    }
    this.#consume(bytes, start, end);
  }

  #consume(bytes: Buffer, start: number, end: number): void {
    const stopped = this.consume(bytes, start, end);
    if (stopped < end) this.#keep(bytes, stopped, end, this.needs);
    const server = this.server;
    if (server !== undefined && server.link.queued > queueHighBytes) {
      this.pausedForServer = true;
      this.link.pause();
    }
  }
  /** Set by `consume`: the length of the message it stopped at, if that must be complete. */
  needs = 0;

  protected consumeInbox(): void {
    const inbox = this.inbox;
    const { length } = inbox;
    const bytes = inbox.take();
    this.#consume(bytes, 0, length);
    giveBuffer(bytes);
  }

  #keep(bytes: Buffer, start: number, end: number, needs: number): void {
    this.inbox.add(bytes, start, end, needs);
    // Read on while there is little: only so is it noticed when the client leaves.
    if (this.blocked && this.inbox.length > keptWhileBlocked) this.link.pause();
  }

  drained(): void {
    this.server?.resumeReading();
  }

  serverDrained(): void {
    this.pausedForServer = false;
    if (!this.blocked) this.link.resume();
  }
}
