/**
 * What the sessions know of the network. A link is one connection; bytes arrive in a buffer that is shared by all
 * links of a worker and valid only during the call, and bytes to send are taken over (copied or written) before
 * `send` returns. Two implementations: net-transport.ts (Node's own sockets) and the native addon.
 */
import type { SecureContext } from "node:tls";

export interface Link {
  /** Takes `bytes[start, end)`; goes out together with what else is sent in this turn. */
  send(bytes: Uint8Array, start: number, end: number): void;
  /** Bytes that the network has not taken yet: the measure for back-pressure. */
  readonly queued: number;
  /** No more `data` until `resume`. */
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes. */
  close(): void;
  /** Closes at once. */
  destroy(): void;
  readonly peer: string;
}

export interface LinkOwner {
  /** Its `data` begins nothing asynchronous, or says so by `Transport.began`. */
  readonly plain?: boolean;
  /** The bytes are valid during the call only. */
  data(bytes: Buffer, start: number, end: number): void;
  /** `queued` has fallen to nothing after having been above the mark. */
  drained(): void;
  /** The last call: the peer has gone, or `close`/`destroy` has been carried out. */
  closed(reason: string): void;
}

/** A link whose owner can change (login, then session), and which can begin to speak TLS. */
export interface ServerSideLink extends Link {
  owner: LinkOwner | undefined;
  /** The server's side of TLS, with the bytes of a handshake that have come already. */
  startTls(context: SecureContext, already: Buffer | undefined, secure: (link: ServerSideLink) => void): void;
  /** ALPN as negotiated; false without, null when there is no TLS. */
  readonly alpn: string | false | null;
}

export type ListenOptions = {
  readonly host: string;
  readonly port: number;
  readonly reusePort?: boolean;
  readonly backlog?: number;
};

export type ConnectOptions = {
  /** A host, or the directory of a Unix socket. */
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  /** The server must speak TLS and have a certificate that `context` trusts, for `servername` (else for the host). */
  readonly tls?: { readonly context: SecureContext; readonly servername?: string };
};

export type Listener = {
  readonly port: number;
  close(): void;
};

export interface Transport {
  listen(options: ListenOptions, accept: (link: ServerSideLink) => LinkOwner): Promise<Listener>;
  connect(options: ConnectOptions, owner: LinkOwner & { connected(): void }): Link;
  /** In this turn something asynchronous may have begun (promises, ticks) by who is `plain` otherwise. */
  began(): void;
  /** A clock that may stand still during a turn. */
  nowMs(): number;
  /** Runs something that sends outside of `data`, and sends it at the end. */
  turn(action: () => void): void;
}

/** From here on a fast sender is stopped until its slow reader has caught up. */
export const queueHighBytes = 256 * 1024;
