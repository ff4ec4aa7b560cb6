/**
 * From the first byte of a connection to a client that is known: TLS and GSS requests, cancel, startup packet,
 * authentication. Whatever the other side sends is bounded and checked.
 */
import { randomBytes } from "node:crypto";
import type { SecureContext } from "node:tls";
import type { LinkOwner, ServerSideLink } from "../transport/transport.ts";
import {
  authenticationOk,
  negotiateVersion,
  saslContinue,
  saslFinal,
  saslMechanisms,
} from "../wire/build.ts";
import { fe, int32, maxAuthMessageBytes, maxStartupBytes } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import { mockVerifier, readVerifier, type ScramKeys, ScramServer, type ScramServerResult } from "./scram.ts";
import { type Packet, Startup, type Startups } from "./startup.ts";

/** What the server knows of a user. */
export type UserEntry = {
  /** As in pg_authid, null without a password. */
  readonly verifier: string | null;
  readonly mayLogin: boolean;
  /** VALID UNTIL is over. */
  readonly expired: boolean;
};

export type Tls = {
  readonly context: SecureContext;
  /** The hash for channel binding. */
  readonly endPointHash: Buffer;
};

export type LoginHost = {
  tls(): Tls | undefined;
  /** "trust": the gateway asks for nothing; the server may still ask the gateway. */
  readonly authentication: "scram" | "trust";
  readonly tlsRequired: boolean;
  readonly mockSecret: Buffer;
  findUser(user: string, done: (found: UserEntry | undefined, error: WireError | undefined) => void): void;
  /** What was found may be out of date. */
  wrongPassword(user: string): void;
  cancel(key: Uint8Array): void;
  /** A startup packet has come; an error is a refusal (draining, too many clients). */
  admit(request: { user: string; database: string }): WireError | undefined;
  /** The client is who it says; the link is the session's from now on. */
  loggedIn(link: ServerSideLink, request: Startup, keys: ScramKeys | undefined): LinkOwner;
  readonly startups: Startups;
  /** Those of the port for reads. */
  readonly readOnlyStartups: Startups;
  loginFailed(reason: string, peer: string): void;
};

const nothing: Buffer = Buffer.alloc(0);

type Phase = "startup" | "tls" | "sasl-initial" | "sasl-response" | "waiting" | "ended";

const loginMessages = {
  wrong: (user: string) => wireError("FATAL", "28P01", `password authentication failed for user "${user}"`),
  tls: wireError("FATAL", "28000", "this gateway accepts only TLS connections", {
    hint: "Connect with sslmode=require.",
  }),
};

export class Login implements LinkOwner {
  readonly #host: LoginHost;
  readonly #link: ServerSideLink;
  #phase: Phase = "startup";
  #secure = false;
  #direct = false;
  #buffer: Buffer = nothing;
  #request: Startup | undefined;
  #scram: ScramServer | undefined;
  #entry: UserEntry | undefined;
  readonly startedAtMs: number;
  readonly #startups: Startups;

  constructor(host: LoginHost, link: ServerSideLink, nowMs: number, readOnly = false) {
    this.#startups = readOnly ? host.readOnlyStartups : host.startups;
    this.#host = host;
    this.#link = link;
    this.startedAtMs = nowMs;
  }

  data(bytes: Buffer, start: number, end: number): void {
    if (this.#phase === "ended") return;
    const limit = this.#phase === "startup" ? maxStartupBytes + 16_384 : maxAuthMessageBytes + 5;
    if (this.#buffer.length + end - start > limit) {
      this.#fail(wireError("FATAL", "08P01", "too much data before the login"));
      return;
    }
    const fresh = bytes.subarray(start, end);
    this.#buffer = this.#buffer.length === 0 ? fresh : Buffer.concat([this.#buffer, fresh]);
    this.#advance();
    // What is left of them is to be kept beyond this call.
    if (this.#buffer.buffer === bytes.buffer && this.#buffer.length > 0)
      this.#buffer = Buffer.from(this.#buffer);
  }

  #advance(): void {
    while (this.#buffer.length > 0) {
      const before = this.#buffer.length;
      if (this.#phase === "startup") this.#startup();
      else if (this.#phase === "sasl-initial" || this.#phase === "sasl-response") this.#sasl();
      else return;
      if (this.#buffer.length === before) return;
    }
  }

  #startup(): void {
    const packet = this.#startups.read(this.#buffer);
    switch (packet.kind) {
      case "incomplete":
        return;
      case "invalid":
        this.#fail(wireError("FATAL", "08P01", packet.reason));
        return;
      case "direct-tls":
        this.#direct = true;
        this.#startTls(this.#buffer);
        return;
      case "ssl": {
        if (this.#buffer.length > packet.bytes) {
          this.#fail(wireError("FATAL", "08P01", "received unencrypted data after SSL request"));
          return;
        }
        this.#buffer = nothing;
        const possible = !this.#secure && this.#host.tls() !== undefined;
        this.#link.send(Buffer.from(possible ? "S" : "N"), 0, 1);
        if (possible) this.#startTls(undefined);
        return;
      }
      case "gss":
        if (this.#buffer.length > packet.bytes) {
          this.#fail(
            wireError("FATAL", "08P01", "received unencrypted data after GSSAPI encryption request"),
          );
          return;
        }
        this.#buffer = nothing;
        this.#link.send(Buffer.from("N"), 0, 1);
        return;
      case "cancel":
        this.#phase = "ended";
        this.#host.cancel(packet.key);
        this.#link.close();
        return;
      case "startup":
        this.#buffer = this.#buffer.subarray(packet.bytes);
        this.#begin(packet);
        return;
    }
  }

  #startTls(already: Buffer | undefined): void {
    const tls = this.#host.tls();
    if (tls === undefined || this.#secure) {
      this.#phase = "ended";
      this.#link.destroy();
      return;
    }
    this.#buffer = nothing;
    this.#phase = "tls";
    this.#link.startTls(tls.context, already === undefined ? undefined : Buffer.from(already), (link) => {
      this.#secure = true;
      this.#phase = "startup";
      if (this.#direct && link.alpn !== "postgresql") {
        this.#fail(wireError("FATAL", "08P01", "direct TLS without ALPN protocol negotiation"));
        return;
      }
      this.#advance();
    });
    // What a client sends right behind its handshake may come before `secure` is told.
  }

  #begin({ request, minor, unknownOptions }: Extract<Packet, { kind: "startup" }>): void {
    if (this.#host.tlsRequired && !this.#secure) {
      this.#fail(loginMessages.tls);
      return;
    }
    if (minor > 2 || unknownOptions.length > 0)
      this.#send(negotiateVersion(Math.min(minor, 2), unknownOptions));
    if (!(request instanceof Startup)) {
      this.#fail(request);
      return;
    }
    this.#request = request;
    const { user, database } = request;
    const refusal = this.#host.admit({ user, database });
    if (refusal !== undefined) {
      this.#fail(refusal);
      return;
    }
    if (this.#host.authentication === "trust") {
      this.#succeed(undefined);
      return;
    }
    this.#phase = "waiting";
    this.#host.findUser(user, (found, error) => {
      if (this.#phase === "ended") return;
      if (error !== undefined) this.#fail({ ...error, severity: "FATAL" });
      else this.#offerScram(user, found);
    });
  }

  #offerScram(user: string, entry: UserEntry | undefined): void {
    this.#entry = entry;
    this.#phase = "sasl-initial";
    const plus = this.#secure && this.#host.tls() !== undefined;
    this.#send(saslMechanisms(plus ? ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"] : ["SCRAM-SHA-256"]));
    this.#scramUser = user;
    this.#advance();
  }
  #scramUser = "";

  #sasl(): void {
    const buffer = this.#buffer;
    if (buffer.length < 5) return;
    const length = int32(buffer, 1);
    if (buffer[0] !== fe.password || length < 4 || length > maxAuthMessageBytes) {
      this.#fail(wireError("FATAL", "08P01", "expected a SASL response"));
      return;
    }
    if (buffer.length < length + 1) return;
    const body = buffer.subarray(5, length + 1);
    this.#buffer = buffer.subarray(length + 1);
    if (this.#phase === "sasl-initial") this.#saslInitial(body);
    else if (this.#scram !== undefined) this.#saslResult(this.#scram.final(body.toString("utf8")));
  }

  #saslInitial(body: Buffer): void {
    const zero = body.indexOf(0);
    const mechanism = zero < 0 ? "" : body.toString("latin1", 0, zero);
    const length = zero >= 0 && body.length >= zero + 5 ? body.readInt32BE(zero + 1) : -1;
    const tls = this.#host.tls();
    const plus = this.#secure && tls !== undefined;
    if (mechanism !== "SCRAM-SHA-256" && !(plus && mechanism === "SCRAM-SHA-256-PLUS")) {
      this.#fail(wireError("FATAL", "08P01", "client selected an invalid SASL authentication mechanism"));
      return;
    }
    if (length < 0 || zero + 5 + length !== body.length) {
      this.#fail(wireError("FATAL", "08P01", "malformed SASL initial response"));
      return;
    }
    const verifier = this.#entry?.verifier == null ? undefined : readVerifier(this.#entry.verifier);
    const binding = mechanism === "SCRAM-SHA-256-PLUS" ? tls?.endPointHash : undefined;
    this.#scram = new ScramServer(
      verifier ?? mockVerifier(this.#host.mockSecret, this.#scramUser),
      binding,
      plus,
    );
    this.#phase = "sasl-response";
    this.#saslResult(this.#scram.first(body.toString("utf8", zero + 5)));
  }

  #saslResult(result: ScramServerResult): void {
    switch (result.kind) {
      case "continue":
        this.#send(saslContinue(result.text));
        return;
      case "malformed":
        this.#fail(wireError("FATAL", "08P01", result.reason));
        return;
      case "wrong":
        this.#host.wrongPassword(this.#scramUser);
        this.#fail(loginMessages.wrong(this.#scramUser));
        return;
      case "ok":
        if (this.#entry === undefined || this.#entry.expired) {
          this.#fail(loginMessages.wrong(this.#scramUser));
          return;
        }
        if (!this.#entry.mayLogin) {
          this.#fail(wireError("FATAL", "28000", `role "${this.#scramUser}" is not permitted to log in`));
          return;
        }
        this.#send(saslFinal(result.text));
        this.#succeed(result.keys);
        return;
    }
  }

  #succeed(keys: ScramKeys | undefined): void {
    this.#phase = "ended";
    this.#send(authenticationOk);
    const owner = this.#host.loggedIn(this.#link, this.#request as Startup, keys);
    this.#link.owner = owner;
    if (this.#buffer.length > 0) owner.data(this.#buffer, 0, this.#buffer.length);
    this.#buffer = nothing;
  }

  #send(bytes: Buffer): void {
    this.#link.send(bytes, 0, bytes.length);
  }

  #fail(error: WireError): void {
    this.#phase = "ended";
    this.#buffer = nothing;
    this.#host.loginFailed(error.message, this.#link.peer);
    this.#send(errorBytes(error));
    this.#link.close();
  }

  get over(): boolean {
    return this.#phase === "ended";
  }

  /** The time for logging in is over. */
  timeOut(): void {
    if (this.#phase === "ended") return;
    this.#fail(wireError("FATAL", "08006", "canceling authentication due to timeout"));
  }

  drained(): void {}

  closed(): void {
    this.#phase = "ended";
  }
}

export const newMockSecret = (): Buffer => randomBytes(32);
