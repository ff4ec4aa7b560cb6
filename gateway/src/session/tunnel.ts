/**
 * A replication connection: a server connection of its own, and bytes both ways as they are. Only the login is the
 * gateway's: the client has proved itself here, the server gets the client's startup parameters and key.
 */

import { type Endpoint, sameEndpoint } from "../pool/endpoint.ts";
import { type LoginStep, ServerLogin } from "../pool/server-login.ts";
import { type Link, type LinkOwner, queueHighBytes } from "../transport/transport.ts";
import { parameterStatus, readyForQuery } from "../wire/build.ts";
import { int32, txIdle } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import type { Worker } from "../worker.ts";
import type { ScramKeys } from "./scram.ts";
import type { Startup } from "./startup.ts";

export class Tunnel implements LinkOwner {
  readonly id: number;
  readonly request: Startup;
  readonly #worker: Worker;
  readonly #client: Link;
  readonly #endpoint: Endpoint | undefined;
  #server: Link | undefined;
  #login: ServerLogin | undefined;
  #carry: Buffer = Buffer.alloc(0);
  /** What the client sent before the server was there. */
  #early: Buffer = Buffer.alloc(0);
  #cancelKey: Buffer | undefined;
  #over = false;

  constructor(worker: Worker, link: Link, request: Startup, keys: ScramKeys | undefined) {
    this.#worker = worker;
    this.#client = link;
    this.request = request;
    this.id = worker.newTunnelId();
    this.#endpoint = worker.options.leaders.view.leader;
    if (this.#endpoint === undefined) {
      this.#fail(wireError("FATAL", "57P03", "no node leads the cluster"));
      return;
    }
    this.#login = new ServerLogin(keys);
    const server = worker.options.transport.connect(worker.wayTo(this.#endpoint), {
      connected: () => {
        const bytes = ServerLogin.startup(request.parameters);
        server.send(bytes, 0, bytes.length);
      },
      data: (bytes, start, end) => this.#fromServer(bytes, start, end),
      drained: () => this.#client.resume(),
      closed: (reason) => this.#serverClosed(reason),
    });
    this.#server = server;
  }

  #fromServer(bytes: Buffer, start: number, end: number): void {
    if (this.#login === undefined) {
      this.#client.send(bytes, start, end);
      if (this.#client.queued > queueHighBytes) this.#server?.pause();
      return;
    }
    this.#carry = Buffer.concat([this.#carry, bytes.subarray(start, end)]);
    while (this.#login !== undefined && this.#carry.length >= 5) {
      const length = int32(this.#carry, 1);
      if (length < 4 || length > 1_000_000) {
        this.#fail(wireError("FATAL", "08P01", "the server broke the protocol"));
        return;
      }
      if (this.#carry.length < length + 1) return;
      const step = this.#login.message(this.#carry, 0, length + 1);
      this.#carry = this.#carry.subarray(length + 1);
      this.#step(step, this.#login);
      if (this.#over) return;
    }
    if (this.#carry.length > 0) this.#client.send(this.#carry, 0, this.#carry.length);
    this.#carry = Buffer.alloc(0);
  }

  #step(step: LoginStep, login: ServerLogin): void {
    switch (step.kind) {
      case "wait":
        return;
      case "send":
        this.#server?.send(step.bytes, 0, step.bytes.length);
        return;
      case "failed": {
        const bytes = step.raw ?? errorBytes(step.error);
        this.#client.send(bytes, 0, bytes.length);
        this.end("the server refused the login");
        return;
      }
      case "ready":
        this.#login = undefined;
        this.#cancelKey = login.cancelKey;
        for (const [name, value] of login.reported.values) this.#send(parameterStatus(name, value));
        this.#send(this.#worker.newCancelKey(this.id, this.request.minorVersion));
        this.#send(readyForQuery(txIdle));
        if (this.#early.length > 0) this.#server?.send(this.#early, 0, this.#early.length);
        this.#early = Buffer.alloc(0);
        this.#client.resume();
    }
  }

  #send(bytes: Buffer): void {
    this.#client.send(bytes, 0, bytes.length);
  }

  #fail(error: WireError): void {
    this.#send(errorBytes(error));
    this.end(error.message);
  }

  #serverClosed(reason: string): void {
    if (this.#over) return;
    if (this.#login !== undefined)
      this.#fail(wireError("FATAL", "08006", `could not connect to the server: ${reason}`));
    else this.end(reason);
  }

  data(bytes: Buffer, start: number, end: number): void {
    if (this.#over) return;
    if (this.#login !== undefined) {
      this.#early = Buffer.concat([this.#early, bytes.subarray(start, end)]);
      this.#client.pause();
      return;
    }
    this.#server?.send(bytes, start, end);
    if ((this.#server?.queued ?? 0) > queueHighBytes) this.#client.pause();
  }

  drained(): void {
    this.#server?.resume();
  }

  closed(): void {
    this.end("the client has gone");
  }

  endpointChanged(leader: Endpoint | undefined): void {
    if (!sameEndpoint(leader, this.#endpoint))
      this.#fail(wireError("FATAL", "57P01", "another node leads now"));
  }

  cancel(): void {
    if (this.#endpoint !== undefined && this.#cancelKey !== undefined) {
      this.#worker.sendCancel(this.#endpoint, this.#cancelKey, () => {});
    }
  }

  end(_reason: string): void {
    if (this.#over) return;
    this.#over = true;
    this.#worker.tunnels.delete(this);
    this.#worker.forgetCancelKey(this.id);
    this.#client.close();
    this.#server?.destroy();
  }
}
