/** A connection of the native transport: a number in the addon's table, and who is told of it. */
import type { SecureContext } from "node:tls";
import type { NativeTransport } from "./native-transport.ts";
import type { NetLink } from "./net-transport.ts";
import type { LinkOwner, ServerSideLink } from "./transport.ts";

/** How long what is queued for a peer may take to go out after `close`. */
const lingerMs = 5_000;

export class NativeLink implements ServerSideLink {
  readonly #transport: NativeTransport;
  id: number;
  #owner: LinkOwner | undefined;
  connected: (() => void) | undefined;
  cancelTimer: (() => void) | undefined;
  over = false;
  #moved: NetLink | undefined;
  #paused = false;
  #linger: NodeJS.Timeout | undefined;
  #secure: ((link: ServerSideLink) => void) | undefined;
  /** As negotiated by the addon. */
  #alpn: string | false | null = null;

  constructor(transport: NativeTransport, id: number) {
    this.#transport = transport;
    this.id = id;
  }

  get owner(): LinkOwner | undefined {
    return this.#owner;
  }

  set owner(owner: LinkOwner | undefined) {
    this.#owner = owner;
    if (this.#moved !== undefined) this.#moved.owner = owner;
  }

  send(bytes: Uint8Array, start: number, end: number): void {
    if (this.#moved !== undefined) this.#moved.send(bytes, start, end);
    else if (!this.over && this.id >= 0) this.#transport.add(this.id, bytes, start, end);
  }

  get queued(): number {
    if (this.#moved !== undefined) return this.#moved.queued;
    return this.id < 0 ? 0 : (this.#transport.queued[this.id] as number);
  }

  pause(): void {
    if (this.#moved !== undefined) this.#moved.pause();
    else if (!this.#paused && this.id >= 0) {
      this.#paused = true;
      this.#transport.pause(this.id, true);
    }
  }

  resume(): void {
    if (this.#moved !== undefined) this.#moved.resume();
    else if (this.#paused && this.id >= 0) {
      this.#paused = false;
      this.#transport.pause(this.id, false);
    }
  }

  close(): void {
    if (this.#moved !== undefined) this.#moved.close();
    else this.#end(false);
  }

  destroy(): void {
    if (this.#moved !== undefined) this.#moved.destroy();
    else this.#end(true);
  }

  #end(atOnce: boolean): void {
    if (this.over) return;
    if (this.id < 0) {
      this.fail("connection given up");
      return;
    }
    if (!this.#transport.closeNow(this.id, atOnce)) {
      this.#linger ??= setTimeout(() => this.destroy(), lingerMs);
      return;
    }
    // The owner hears of it in a turn of its own, as with any other close.
    this.over = true;
    this.#transport.forget(this.id);
    this.id = -1; // the number may be another link's by then
    this.#transport.endSoon(this);
  }

  /** The handshake is done. */
  secured(alpn: boolean): void {
    this.#alpn = alpn ? "postgresql" : false;
    const secure = this.#secure;
    this.#secure = undefined;
    secure?.(this);
  }

  fail(reason: string): void {
    if (this.over) return;
    if (this.id >= 0) this.#transport.closeNow(this.id, true);
    this.ended(reason);
  }

  /** The connection is gone. */
  ended(reason: string): void {
    this.cancelTimer?.();
    clearTimeout(this.#linger);
    this.over = true;
    if (this.id >= 0) this.#transport.forget(this.id);
    this.id = -1;
    const owner = this.#owner;
    this.#owner = undefined;
    owner?.closed(reason);
  }

  get peer(): string {
    if (this.#moved !== undefined) return this.#moved.peer;
    return this.over || this.id < 0 ? "gone" : this.#transport.peer(this.id);
  }

  get alpn(): string | false | null {
    return this.#moved === undefined ? this.#alpn : this.#moved.alpn;
  }

  startTls(
    context: SecureContext,
    already: Buffer | undefined,
    secure: (link: ServerSideLink) => void,
  ): void {
    if (this.over || this.#moved !== undefined) return;
    this.#secure = secure;
    if (this.#transport.startTls(this.id, context, already)) return;
    const moved = this.#transport.toNet(this);
    if (moved === undefined) {
      this.fail("TLS began too late");
      return;
    }
    this.#moved = moved;
    moved.owner = this.#owner;
    moved.startTls(context, already, () => secure(this));
  }
}
