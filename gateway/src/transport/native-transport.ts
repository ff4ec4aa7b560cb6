/**
 * The transport on the native addon (native/): all sockets of a worker in one epoll set, one call from C into
 * JavaScript per turn of the loop. TLS is done by the addon with the OpenSSL that Node has in it; where a Node doesn't
 * offer it, such connections move to Node's sockets when their handshake begins.
 */
import dns from "node:dns";
import { createRequire } from "node:module";
import * as net from "node:net";
import { performance } from "node:perf_hooks";
import type { SecureContext } from "node:tls";
import { getSystemErrorName } from "node:util";
import { NativeLink } from "./native-link.ts";
import { NetLink, NetTransport } from "./net-transport.ts";
import { pemOf } from "./secure-context.ts";
import type {
  ConnectOptions,
  LinkOwner,
  Listener,
  ListenOptions,
  ServerSideLink,
  Transport,
} from "./transport.ts";

type Addon = {
  start(
    wake: () => void,
    input: ArrayBuffer,
    output: ArrayBuffer,
    ranges: ArrayBuffer,
    events: ArrayBuffer,
    queued: ArrayBuffer,
    counts: ArrayBuffer,
    uring: number,
  ): Instance;
};

type Instance = {
  /** 1: the kernel's io_uring is used. */
  readonly uring: number;
  send(ranges: number): void;
  listen(host: string, port: number, backlog: number, reusePort: number): number;
  port(id: number): number;
  connect(host: string, port: number): number;
  pause(id: number, on: number): void;
  close(id: number, atOnce: number): number;
  release(id: number): number;
  peer(id: number): string;
  hold(on: number): void;
  streams(): number;
  tlsContext(certificates: Buffer, key: Buffer): number;
  tls(id: number, context: number, early: Buffer): number;
};

const event = { accept: 1, connected: 2, data: 3, drain: 4, closed: 5, secure: 6 } as const;

/** With io_uring the addon gives about half of it to the kernel as buffers. */
const inputBytes = 2304 * 1024;
const outputBytes = 512 * 1024;
const mostRanges = 8192;
const mostEvents = 1024;
const mostLinks = 65_536;
/** Shorter pieces are copied byte by byte: cheaper than a call. */
const copiedInLoop = 128;
const noBytes: Buffer = Buffer.alloc(0);
/** Makes no view, as `set(subarray)` does; works on any Uint8Array. */
const copy = Buffer.prototype.copy as (
  this: Uint8Array,
  target: Buffer,
  to: number,
  from: number,
  end: number,
) => number;

export class NativeTransport implements Transport {
  readonly #addon: Instance;
  readonly #onBug: (error: unknown) => void;
  readonly #input: Buffer;
  readonly #output: Buffer;
  readonly #ranges: Int32Array;
  readonly #events: Int32Array;
  /** Events from the addon, ranges for it, and whether something asynchronous may have begun. */
  readonly #counts: Int32Array;
  readonly queued: Uint32Array;
  readonly #links: (NativeLink | undefined)[] = [];
  readonly #listeners = new Map<number, (link: NativeLink) => LinkOwner>();
  readonly #contexts = new WeakMap<SecureContext, number>();
  /** For connections that need TLS. */
  readonly #net: NetTransport;
  #length = 0;
  #rangeCount = 0;
  #lastId = -1;
  #inTurn = false;
  #scheduled = false;
  #open = 0;
  #turnMs = 0;

  static #ofThread: NativeTransport | undefined;

  /** One per thread, as only one can be where the thread's loop waits: `uring` counts for who is first. */
  static get(file: string, onBug: (error: unknown) => void, uring = true): NativeTransport {
    NativeTransport.#ofThread ??= new NativeTransport(file, onBug, uring);
    return NativeTransport.#ofThread;
  }

  private constructor(file: string, onBug: (error: unknown) => void, uring: boolean) {
    this.#onBug = onBug;
    this.#net = new NetTransport(onBug);
    const input = new ArrayBuffer(inputBytes);
    const output = new ArrayBuffer(outputBytes);
    const ranges = new ArrayBuffer(mostRanges * 12);
    const events = new ArrayBuffer(mostEvents * 16);
    const queued = new ArrayBuffer(mostLinks * 4);
    const counts = new ArrayBuffer(12);
    this.#input = Buffer.from(input);
    this.#output = Buffer.from(output);
    this.#ranges = new Int32Array(ranges);
    this.#events = new Int32Array(events);
    this.queued = new Uint32Array(queued);
    this.#counts = new Int32Array(counts);
    const addon = createRequire(import.meta.url)(file) as Addon;
    const wake = () => this.#wake();
    this.#addon = addon.start(wake, input, output, ranges, events, queued, counts, uring ? 1 : 0);
  }

  /** Whether the kernel's io_uring is used. */
  get uring(): boolean {
    return this.#addon.uring === 1;
  }

  /** How often a connection was given to the kernel to receive for. */
  get streams(): number {
    return this.#addon.streams();
  }

  /** One turn: the addon has received, and will send what is listed at the end. Without events: what was begun goes on. */
  #wake(): void {
    this.#inTurn = true;
    this.#plain = true;
    this.#turnMs = performance.now();
    const count = this.#counts[0] as number;
    for (let each = 0; each < count; each++) this.#handle(each * 4);
    if (this.#ended.length > 0) this.#tellEnded();
    this.#inTurn = false;
    this.#net.outbox.flush();
    if (count === 0) {
      // Promises and ticks go on behind this call, and may send: the output area must be free by then.
      this.#flush();
      return;
    }
    this.#counts[1] = this.#rangeCount;
    this.#counts[2] = this.#plain ? 0 : 1;
    this.#rangeCount = 0;
    this.#length = 0;
    this.#lastId = -1;
  }

  /** Nothing has happened in this turn that might have begun something asynchronous (promises, ticks). */
  #plain = true;

  /** Its owner hears of it when everybody else has had the turn. */
  endSoon(link: NativeLink): void {
    this.#plain = false;
    this.#ended.push(link);
    if (!this.#inTurn && this.#ended.length === 1) setImmediate(() => this.turn(() => this.#tellEnded()));
  }
  #ended: NativeLink[] = [];

  #tellEnded(): void {
    while (this.#ended.length > 0) {
      const links = this.#ended;
      this.#ended = [];
      for (const link of links) {
        try {
          link.ended("connection closed");
        } catch (error) {
          this.#onBug(error);
        }
      }
    }
  }

  began(): void {
    this.#plain = false;
  }

  nowMs(): number {
    return this.#inTurn ? this.#turnMs : performance.now();
  }

  #handle(at: number): void {
    const events = this.#events;
    const id = events[at + 1] as number;
    const link = this.#links[id];
    if (events[at] !== event.data) this.#plain = false;
    try {
      switch (events[at]) {
        case event.data: {
          const owner = link?.owner;
          if (owner === undefined) return;
          if (owner.plain !== true) this.#plain = false;
          owner.data(this.#input, events[at + 2] as number, events[at + 3] as number);
          return;
        }
        case event.accept:
          this.#accepted(id, events[at + 2] as number);
          return;
        case event.connected:
          link?.connected?.();
          return;
        case event.drain:
          link?.owner?.drained();
          return;
        case event.secure:
          link?.secured(events[at + 2] === 1);
          return;
        case event.closed:
          link?.ended(
            events[at + 2] === 0 ? "connection closed" : `${getSystemErrorName(-(events[at + 2] as number))}`,
          );
          return;
        default:
          return;
      }
    } catch (error) {
      this.#onBug(error);
      link?.destroy();
    }
  }

  #accepted(id: number, listener: number): void {
    const accept = this.#listeners.get(listener);
    const link = this.#add(id);
    if (accept === undefined) link.destroy();
    else link.owner = accept(link);
  }

  #add(id: number): NativeLink {
    const link = new NativeLink(this, id);
    this.#links[id] = link;
    this.#hold(1);
    return link;
  }

  #hold(change: number): void {
    const before = this.#open;
    this.#open += change;
    if (before === 0 || this.#open === 0) this.#addon.hold(this.#open > 0 ? 1 : 0);
  }

  /** The link's number belongs to nobody any more. */
  forget(id: number): void {
    if (this.#links[id] === undefined) return;
    this.#links[id] = undefined;
    this.#hold(-1);
  }

  add(id: number, bytes: Uint8Array, start: number, end: number): void {
    let at = start;
    while (end - at > outputBytes - this.#length) {
      const part = outputBytes - this.#length;
      this.#put(id, bytes, at, at + part);
      at += part;
      this.#flush();
    }
    this.#put(id, bytes, at, end);
    if (!this.#inTurn && !this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#flush();
      });
    }
  }

  #put(id: number, bytes: Uint8Array, start: number, end: number): void {
    const length = end - start;
    if (length === 0) return;
    const to = this.#length;
    const output = this.#output;
    if (length <= copiedInLoop) {
      for (let from = start, at = to; from < end; from++, at++) output[at] = bytes[from] as number;
    } else copy.call(bytes, output, to, start, end);
    this.#length = to + length;
    const ranges = this.#ranges;
    if (id === this.#lastId) {
      ranges[this.#rangeCount * 3 - 1] = this.#length;
      return;
    }
    if (this.#rangeCount === mostRanges) {
      this.#length = to;
      this.#flush();
      this.#put(id, bytes, start, end);
      return;
    }
    const at = this.#rangeCount * 3;
    ranges[at] = id;
    ranges[at + 1] = to;
    ranges[at + 2] = this.#length;
    this.#rangeCount++;
    this.#lastId = id;
  }

  #flush(): void {
    const count = this.#rangeCount;
    this.#rangeCount = 0;
    this.#length = 0;
    this.#lastId = -1;
    if (count > 0) this.#addon.send(count);
  }

  turn(action: () => void): void {
    const nested = this.#inTurn;
    if (!nested) this.#turnMs = performance.now();
    this.#inTurn = true;
    try {
      this.#net.turn(action);
      if (!nested && this.#ended.length > 0) this.#tellEnded();
    } finally {
      this.#inTurn = nested;
      if (!nested) this.#flush();
    }
  }

  async listen(options: ListenOptions, accept: (link: ServerSideLink) => LinkOwner): Promise<Listener> {
    const { address } = await dns.promises.lookup(options.host);
    const id = this.#addon.listen(address, options.port, options.backlog ?? 1024, options.reusePort ? 1 : 0);
    this.#listeners.set(id, accept);
    this.#hold(1);
    return {
      port: this.#addon.port(id),
      close: () => {
        if (!this.#listeners.delete(id)) return;
        this.#addon.close(id, 1);
        this.#hold(-1);
      },
    };
  }

  connect(options: ConnectOptions, owner: LinkOwner & { connected(): void }): ServerSideLink {
    // The client's side of TLS is Node's.
    if (options.tls !== undefined) return this.#net.connect(options, owner);
    const { host, port, timeoutMs } = options;
    const link = new NativeLink(this, -1);
    link.owner = owner;
    const timer = setTimeout(
      () => link.fail(`no connection to ${host}:${port} after ${timeoutMs} ms`),
      timeoutMs,
    );
    link.connected = () => {
      clearTimeout(timer);
      owner.connected();
    };
    link.cancelTimer = () => clearTimeout(timer);
    const begin = (address: string): void => {
      if (link.over) return;
      const id = this.#addon.connect(address, port);
      if (id < 0) {
        setImmediate(() => this.turn(() => link.fail(`${getSystemErrorName(id)} ${host}:${port}`)));
        return;
      }
      link.id = id;
      this.#links[id] = link;
      this.#hold(1);
    };
    if (host.startsWith("/")) begin(`${host}/.s.PGSQL.${port}`);
    else if (net.isIP(host) !== 0) begin(host);
    else {
      dns.lookup(host, (error, address) => {
        if (error) this.turn(() => link.fail(error.message));
        else begin(address);
      });
    }
    return link;
  }

  pause(id: number, on: boolean): void {
    this.#addon.pause(id, on ? 1 : 0);
  }

  /** True if it is closed now. */
  closeNow(id: number, atOnce: boolean): boolean {
    this.#flush();
    return this.#addon.close(id, atOnce ? 1 : 0) === 1;
  }

  peer(id: number): string {
    return this.#addon.peer(id);
  }

  /** TLS on this connection; false: the addon can't, Node's own sockets must. */
  startTls(id: number, context: SecureContext, already: Buffer | undefined): boolean {
    let number = this.#contexts.get(context);
    if (number === undefined) {
      const pem = pemOf(context);
      number = pem === undefined ? -1 : this.#addon.tlsContext(pem.certificates, pem.key);
      this.#contexts.set(context, number);
    }
    if (number < 0) return false;
    this.#flush();
    return this.#addon.tls(id, number, already ?? noBytes) === 1;
  }

  /** Gives the connection to Node's own sockets. */
  toNet(link: NativeLink): NetLink | undefined {
    this.#flush();
    const fd = this.#addon.release(link.id);
    if (fd < 0) return undefined; // nobody asks for TLS in so many pieces
    this.forget(link.id);
    const moved = new NetLink(this.#net);
    const socket = new net.Socket({ fd, readable: true, writable: true });
    socket.setNoDelay(true);
    moved.hold(socket, { data() {}, drained() {}, closed: (reason) => link.ended(reason) });
    return moved;
  }
}
