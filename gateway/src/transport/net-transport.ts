/**
 * The transport on Node's own sockets. All sockets of a worker read into one shared buffer (`onread`), so that an
 * idle connection owns no buffer; TLS sockets have to use ordinary streams.
 */
import { createHash, X509Certificate } from "node:crypto";
import * as net from "node:net";
import * as tls from "node:tls";
import { sslRequestCode } from "../wire/codec.ts";
import { Outbox, type Writable } from "./outbox.ts";
import type {
  ConnectOptions,
  LinkOwner,
  Listener,
  ListenOptions,
  ServerSideLink,
  Transport,
} from "./transport.ts";

const readBytes = 64 * 1024;
const sslRequest = Buffer.alloc(8);
sslRequest.writeInt32BE(8, 0);
sslRequest.writeInt32BE(sslRequestCode, 4);

/** What Node's Server has and its types hide; when it isn't there, accepted sockets are read as streams. */
type RawServer = net.Server & {
  _handle?: { onconnection?: (status: number, handle: unknown) => void } | null;
};

export class NetTransport implements Transport {
  readonly outbox = new Outbox();
  readonly #readBuffer: Buffer = Buffer.allocUnsafeSlow(readBytes);
  readonly #onBug: (error: unknown) => void;

  constructor(onBug: (error: unknown) => void) {
    this.#onBug = onBug;
  }

  /** Starts to listen; `accept` gives the owner of each new link. */
  async listen(options: ListenOptions, accept: (link: ServerSideLink) => LinkOwner): Promise<Listener> {
    const server: RawServer = net.createServer({ noDelay: true }, (socket) => {
      this.#adopt(new NetLink(this), socket, accept);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(options, () => {
        server.off("error", reject);
        resolve();
      });
    });
    const handle = server._handle;
    if (handle && typeof handle.onconnection === "function") {
      handle.onconnection = (status, clientHandle) => {
        if (status !== 0 || clientHandle === undefined) return;
        const link = new NetLink(this);
        const given = { handle: clientHandle, onread: this.#onread(link) };
        const socket = new net.Socket(given as net.SocketConstructorOpts);
        socket.setNoDelay(true);
        this.#adopt(link, socket, accept);
      };
    }
    const address = server.address();
    return {
      port: typeof address === "object" && address !== null ? address.port : options.port,
      close: () => server.close(),
    };
  }

  #adopt(link: NetLink, socket: net.Socket, accept: (link: NetLink) => LinkOwner): void {
    this.turn(() => link.start(socket, accept(link)));
  }

  connect(options: ConnectOptions, owner: LinkOwner & { connected(): void }): NetLink {
    const link = new NetLink(this);
    const secure = options.tls !== undefined && !options.host.startsWith("/");
    const socket = net.connect({
      ...(options.host.startsWith("/")
        ? { path: `${options.host}/.s.PGSQL.${options.port}` }
        : { host: options.host, port: options.port, noDelay: true, keepAlive: true }),
      ...(secure ? {} : { onread: this.#onread(link) }),
    } as net.NetConnectOpts);
    const timer = setTimeout(() => {
      socket.destroy(
        new Error(`no connection to ${options.host}:${options.port} after ${options.timeoutMs} ms`),
      );
    }, options.timeoutMs);
    socket.once("close", () => clearTimeout(timer));
    const connected = () => {
      clearTimeout(timer);
      link.owner = owner;
      owner.connected();
    };
    if (secure) socket.once("connect", () => socket.write(sslRequest));
    else socket.once("connect", () => this.turn(connected));
    link.start(socket, secure ? this.#tlsAnswer(link, options, owner, connected) : owner);
    return link;
  }

  /** Hears the server's answer to the request for TLS, one byte. */
  #tlsAnswer(link: NetLink, options: ConnectOptions, owner: LinkOwner, connected: () => void): LinkOwner {
    const { host, tls: wanted } = options;
    const name = wanted?.servername ?? (net.isIP(host) === 0 ? host : undefined);
    return {
      data: (bytes, start, end) => {
        if (end - start !== 1 || bytes[start] !== 0x53) {
          link.fail("the server doesn't speak TLS");
          return;
        }
        const context = wanted?.context;
        link.startTlsAsClient(
          {
            host,
            ...(context && { secureContext: context }),
            ...(name === undefined ? {} : { servername: name }),
          },
          connected,
        );
      },
      drained() {},
      closed: (reason) => owner.closed(reason),
    };
  }

  #onread(link: NetLink): net.OnReadOpts {
    return {
      buffer: this.#readBuffer,
      callback: (bytes: number, buffer: Uint8Array) => {
        this.read(link, buffer as Buffer, bytes);
        return true;
      },
    };
  }

  read(link: NetLink, buffer: Buffer, bytes: number): void {
    this.outbox.beginTurn();
    try {
      link.owner?.data(buffer, 0, bytes);
    } catch (error) {
      this.#onBug(error);
      link.destroy();
    }
    this.outbox.endTurn();
  }

  began(): void {}

  nowMs(): number {
    return performance.now();
  }

  /** Runs something that sends, and sends it at the end. */
  turn(action: () => void): void {
    this.outbox.beginTurn();
    try {
      action();
    } catch (error) {
      this.#onBug(error);
    }
    this.outbox.endTurn();
  }
}

export class NetLink implements ServerSideLink, Writable {
  readonly #transport: NetTransport;
  #socket: net.Socket | undefined;
  owner: LinkOwner | undefined;
  #reason = "connection closed";
  #upgrading = false;

  constructor(transport: NetTransport) {
    this.#transport = transport;
  }

  /** A socket that nobody reads yet: for TLS, which takes it over. */
  hold(socket: net.Socket, owner: LinkOwner): void {
    this.owner = owner;
    this.#socket = socket;
    socket.on("error", () => {});
  }

  start(socket: net.Socket, owner: LinkOwner): void {
    this.owner = owner;
    this.#attach(socket);
  }

  #attach(socket: net.Socket): void {
    this.#socket = socket;
    const streams = socket instanceof tls.TLSSocket || !hasOnread(socket);
    if (streams) {
      socket.on("data", (chunk: Buffer) => this.#transport.read(this, chunk, chunk.length));
    }
    socket.on("drain", () => this.#transport.turn(() => this.owner?.drained()));
    socket.on("error", (error) => {
      this.#reason = error.message;
    });
    socket.on("close", () => {
      if (this.#socket !== socket) return;
      this.#transport.turn(() => this.owner?.closed(this.#reason));
      this.owner = undefined;
    });
  }

  /** The server's side of TLS on this link, with the bytes of a handshake that have come already. */
  startTls(
    context: tls.SecureContext,
    already: Buffer | undefined,
    secure: (link: ServerSideLink) => void,
  ): void {
    const plain = this.#socket;
    if (plain === undefined || this.#upgrading) return;
    this.#upgrading = true;
    this.#transport.outbox.flush();
    plain.removeAllListeners("data");
    plain.removeAllListeners("drain");
    plain.removeAllListeners("close");
    if (already !== undefined) plain.unshift(already);
    const secured = new tls.TLSSocket(plain, {
      isServer: true,
      secureContext: context,
      ALPNProtocols: ["postgresql"],
    } as tls.TLSSocketOptions);
    this.#attach(secured);
    secured.once("secure", () => this.#transport.turn(() => secure(this)));
  }

  /** The client's side of TLS, towards a server that has answered 'S'. */
  startTlsAsClient(options: tls.ConnectionOptions, secure: (link: NetLink) => void): void {
    const plain = this.#socket;
    if (plain === undefined) return;
    plain.removeAllListeners("data");
    plain.removeAllListeners("drain");
    plain.removeAllListeners("close");
    const secured = tls.connect({ ...options, socket: plain });
    this.#attach(secured);
    secured.once("secureConnect", () => this.#transport.turn(() => secure(this)));
  }

  /** ALPN as negotiated; false without. */
  get alpn(): string | false | null {
    return this.#socket instanceof tls.TLSSocket ? this.#socket.alpnProtocol : null;
  }

  send(bytes: Uint8Array, start: number, end: number): void {
    if (end > start) this.#transport.outbox.add(this, bytes, start, end);
  }

  write(view: Buffer): boolean {
    const socket = this.#socket;
    if (socket === undefined || socket.destroyed || socket.writableEnded) return true;
    socket.write(view);
    return socket.writableLength === 0 && !(socket instanceof tls.TLSSocket);
  }

  get queued(): number {
    return this.#socket?.writableLength ?? 0;
  }

  pause(): void {
    this.#socket?.pause();
  }

  resume(): void {
    this.#socket?.resume();
  }

  close(): void {
    this.#transport.outbox.flush();
    this.#socket?.destroySoon();
  }

  destroy(): void {
    this.#socket?.destroy();
  }

  fail(reason: string): void {
    this.#socket?.destroy(new Error(reason));
  }

  get peer(): string {
    const socket = this.#socket;
    return socket?.remoteAddress === undefined ? "local" : `${socket.remoteAddress}:${socket.remotePort}`;
  }
}

function hasOnread(socket: net.Socket): boolean {
  return Object.getOwnPropertySymbols(socket).some(
    (symbol) => symbol.description === "kBuffer" && (socket as never)[symbol] !== null,
  );
}

/** The hash that `tls-server-end-point` channel binding takes of a certificate (RFC 5929). */
export function endPointHash(certificatePem: string | Buffer): Buffer {
  const certificate = new X509Certificate(certificatePem);
  const algorithm =
    (certificate as X509Certificate & { signatureAlgorithm?: string }).signatureAlgorithm ?? "";
  const found = /sha-?(224|256|384|512)/i.exec(algorithm);
  const hash = found === null ? "sha256" : `sha${found[1]}`;
  return createHash(hash).update(certificate.raw).digest();
}
