/** A client that speaks bare messages: what a library would hide is what these tests compare. */
import * as net from "node:net";
import { message, startup } from "../../src/wire/build.ts";
import { fe, int32 } from "../../src/wire/codec.ts";

export type Received = { readonly type: string; readonly body: Buffer };

/** A port of this machine, or the path of a socket. */
export type Address = number | string;

export class RawClient {
  readonly socket: net.Socket;
  #buffer: Buffer = Buffer.alloc(0);
  #received: Received[] = [];
  #wake: (() => void) | undefined;
  closed = false;

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, chunk]);
      let at = 0;
      while (this.#buffer.length - at >= 5) {
        const total = int32(this.#buffer, at + 1) + 1;
        if (this.#buffer.length - at < total) break;
        const type = String.fromCharCode(this.#buffer[at] as number);
        this.#received.push({ type, body: Buffer.from(this.#buffer.subarray(at + 5, at + total)) });
        at += total;
      }
      this.#buffer = this.#buffer.subarray(at);
      this.#wake?.();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
      this.#wake?.();
    });
  }

  static async open(address: Address): Promise<RawClient> {
    const socket = typeof address === "number" ? net.connect(address, "127.0.0.1") : net.connect(address);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new RawClient(socket);
  }

  static async login(address: Address, parameters: Record<string, string>): Promise<RawClient> {
    const client = await RawClient.open(address);
    client.send(startup(Object.entries(parameters)));
    await client.until(1);
    return client;
  }

  send(...messages: readonly Uint8Array[]): void {
    if (!this.closed) this.socket.write(Buffer.concat(messages));
  }

  /** Everything up to the `count`-th ReadyForQuery, or up to the end of the connection. */
  async until(count: number, timeoutMs = 20_000): Promise<Received[]> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      let seen = 0;
      for (let at = 0; at < this.#received.length; at++) {
        if (this.#received[at]?.type === "Z" && ++seen === count) return this.#received.splice(0, at + 1);
      }
      if (this.closed) return this.#received.splice(0);
      const leftMs = deadline - Date.now();
      if (leftMs <= 0)
        throw new Error(`no answer in time; so far: ${this.#received.map((each) => each.type).join("")}`);
      await this.#more(leftMs);
    }
  }

  #more(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Waits for a message of this type, and leaves everything up to it behind. */
  async find(type: string, timeoutMs = 20_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const at = this.#received.findIndex((each) => each.type === type);
      if (at >= 0) {
        this.#received.splice(0, at + 1);
        return;
      }
      const leftMs = deadline - Date.now();
      if (this.closed || leftMs <= 0) throw new Error(`no ${type} has come`);
      await this.#more(leftMs);
    }
  }

  /** The next message, whatever it is. */
  async next(timeoutMs = 20_000): Promise<Received> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const first = this.#received.shift();
      if (first !== undefined) return first;
      const leftMs = deadline - Date.now();
      if (this.closed || leftMs <= 0) throw new Error("no message has come");
      await this.#more(leftMs);
    }
  }

  async query(sql: string): Promise<Received[]> {
    this.send(message(fe.query, `${sql}\0`));
    return this.until(1);
  }

  close(): void {
    this.socket.destroy();
  }
}

const int16 = (value: number) => Buffer.from([value >>> 8, value & 255]);

export const wire = {
  parse: (name: string, sql: string) => message(fe.parse, `${name}\0${sql}\0`, int16(0)),
  bind: (portal: string, name: string, values: readonly string[] = []) =>
    message(
      fe.bind,
      `${portal}\0${name}\0`,
      int16(0),
      int16(values.length),
      ...values.map((value) => {
        const bytes = Buffer.from(value);
        const length = Buffer.alloc(4);
        length.writeInt32BE(bytes.length);
        return Buffer.concat([length, bytes]);
      }),
      int16(0),
    ),
  describe: (kind: "S" | "P", name: string) => message(fe.describe, `${kind}${name}\0`),
  execute: (portal: string, rows = 0) => {
    const limit = Buffer.alloc(4);
    limit.writeInt32BE(rows);
    return message(fe.execute, `${portal}\0`, limit);
  },
  closeStatement: (name: string) => message(fe.close, `S${name}\0`),
  closePortal: (name: string) => message(fe.close, `P${name}\0`),
  sync: () => message(fe.sync),
  flush: () => message(fe.flush),
  query: (sql: string) => message(fe.query, `${sql}\0`),
  copyData: (text: string) => message(fe.copyData, text),
  copyDone: () => message(fe.copyDone),
  copyFail: (why: string) => message(fe.copyFail, `${why}\0`),
} as const;

/** As text that two servers must agree on: process ids and source lines are left out. */
export function readable(received: readonly Received[]): string[] {
  const parameters: string[] = [];
  const out: string[] = [];
  for (const { type, body } of received) {
    if (type === "S") parameters.push(`S ${body.toString("utf8").replaceAll("\0", "=")}`);
    else if (type === "A") out.push(`A ${body.subarray(4).toString("utf8")}`);
    else if (type === "Z") {
      out.push(...parameters.sort(), `Z ${body.toString("latin1")}`);
      parameters.length = 0;
    } else if (type === "E" || type === "N") {
      const fields = body
        .toString("utf8")
        .split("\0")
        .filter((field) => field !== "" && !/^[FLR]/.test(field));
      out.push(`${type} ${fields.join("|")}`);
    } else if (type === "T" || type === "t") out.push(`${type} ${withoutOids(type, body)}`);
    else out.push(`${type} ${body.toString("latin1")}`);
  }
  return [...out, ...parameters];
}

/** Tables of two databases have different oids. */
function withoutOids(type: string, body: Buffer): string {
  if (type === "t") return body.toString("hex");
  const names: string[] = [];
  let at = 2;
  for (let column = 0; column < body.readInt16BE(0); column++) {
    const end = body.indexOf(0, at);
    names.push(
      `${body.toString("utf8", at, end)}:${body.readInt32BE(end + 7)}:${body.readInt16BE(end + 17)}`,
    );
    at = end + 19;
  }
  return names.join(",");
}
