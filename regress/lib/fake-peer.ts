/** Peers that speak the replication protocol and then say whatever a test wants: a walsender, a walreceiver. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { chmod } from "node:fs/promises";
import { connect, createServer, type Server as NetServer, type Socket } from "node:net";
import { poll } from "@quorate/common";

export const int64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt.asIntN(64, value));
  return bytes;
};

function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const text = (value: string): Buffer => Buffer.concat([Buffer.from(value), Buffer.from([0])]);

const int16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
};

const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};

function table(names: readonly string[], values: readonly string[]): Buffer {
  const columns = names.map((name) =>
    Buffer.concat([text(name), int32(0), int16(0), int32(25), int16(-1), int32(-1), int16(0)]),
  );
  const cells = values.map((value) => Buffer.concat([int32(Buffer.byteLength(value)), Buffer.from(value)]));
  return Buffer.concat([
    message("T", Buffer.concat([int16(names.length), ...columns])),
    message("D", Buffer.concat([int16(values.length), ...cells])),
    message("C", text("SELECT 1")),
    message("Z", Buffer.from("I")),
  ]);
}

/** Complete messages of a stream; the first of a client has no type. */
function splitter(first: "startup" | "typed", onMessage: (type: string, body: Buffer) => void) {
  let rest = Buffer.alloc(0);
  let untyped = first === "startup";
  return (chunk: Buffer): void => {
    rest = Buffer.concat([rest, chunk]);
    for (;;) {
      const at = untyped ? 0 : 1;
      if (rest.length < at + 4) return;
      const length = rest.readInt32BE(at);
      if (rest.length < at + length) return;
      const type = untyped ? "startup" : rest.toString("latin1", 0, 1);
      const body = Buffer.from(rest.subarray(at + 4, at + length));
      rest = rest.subarray(at + length);
      untyped = false;
      onMessage(type, body);
    }
  };
}

export type FakeWalsender = {
  /** Streams that a walreceiver has begun so far. */
  readonly streams: () => number;
  readonly close: () => void;
};

export type FakeWalsenderOptions = {
  readonly socketPath: string;
  readonly systemIdentifier: string;
  readonly timeline: number;
  readonly lsn: string;
  readonly history: string;
  /** What to say in the n-th stream, which begins at the LSN; then the stream ends. */
  readonly say: (n: number, start: bigint) => readonly Buffer[];
};

export async function fakeWalsender(options: FakeWalsenderOptions): Promise<FakeWalsender> {
  let streams = 0;
  const sockets = new Set<Socket>();
  const answer = (socket: Socket, query: string): void => {
    const start = /START_REPLICATION.* ([0-9A-F]+)\/([0-9A-F]+) TIMELINE/.exec(query);
    if (query.startsWith("IDENTIFY_SYSTEM")) {
      const { systemIdentifier, timeline, lsn } = options;
      socket.write(
        table(["systemid", "timeline", "xlogpos", "dbname"], [systemIdentifier, String(timeline), lsn, ""]),
      );
    } else if (query.startsWith("TIMELINE_HISTORY")) {
      const name = `${options.timeline.toString(16).toUpperCase().padStart(8, "0")}.history`;
      socket.write(table(["filename", "content"], [name, options.history]));
    } else if (start !== null) {
      streams += 1;
      const lsn = (BigInt(`0x${start[1]}`) << 32n) | BigInt(`0x${start[2]}`);
      socket.write(message("W", Buffer.from([0, 0, 0])));
      for (const each of options.say(streams, lsn)) socket.write(message("d", each));
      socket.end();
    } else {
      socket.write(
        Buffer.concat([
          message(
            "E",
            Buffer.concat([text("SERROR"), text("C42601"), text(`Mno ${query}`), Buffer.from([0])]),
          ),
          message("Z", Buffer.from("I")),
        ]),
      );
    }
  };
  const server: NetServer = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    socket.on(
      "data",
      splitter("startup", (type, body) => {
        if (type === "startup") {
          const version = Buffer.concat([text("server_version"), text("18.6")]);
          socket.write(
            Buffer.concat([message("R", int32(0)), message("S", version), message("Z", Buffer.from("I"))]),
          );
        } else if (type === "Q") answer(socket, body.toString("utf8", 0, body.length - 1));
      }),
    );
  });
  server.listen(options.socketPath);
  await once(server, "listening");
  await chmod(options.socketPath, 0o777); // Postgres may run as somebody else
  return {
    streams: () => streams,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

export type FakeReceiver = {
  /** CopyData with these contents. */
  readonly say: (body: Buffer) => void;
  /** Until the server has answered a status request, so it has read what was said before; or has hung up. */
  readonly said: () => Promise<void>;
  /** Resolves with the server's complaint, if any, when the connection has ended. */
  readonly ended: Promise<string>;
  readonly close: () => void;
};

/** Streams from a real server under that name, and then says what it likes. */
export async function fakeReceiver(
  socketPath: string,
  name: string,
  start: { readonly lsn: string; readonly timeline: number },
  options = "-cquorate.member=on",
): Promise<FakeReceiver> {
  const socket = connect(socketPath);
  socket.on("error", () => undefined);
  let complaint = "";
  let keepalives = 0;
  const streaming = new Promise<void>((resolve, reject) => {
    socket.on("close", () => reject(new Error(`no stream: ${complaint}`)));
    socket.on(
      "data",
      splitter("typed", (type, body) => {
        if (type === "Z")
          socket.write(message("Q", text(`START_REPLICATION ${start.lsn} TIMELINE ${start.timeline}`)));
        if (type === "W") resolve();
        if (type === "d" && body.toString("latin1", 0, 1) === "k") keepalives += 1;
        if (type === "E") complaint = body.toString("utf8").replaceAll("\0", " ");
      }),
    );
  });
  const ended = new Promise<string>((resolve) => {
    socket.on("close", () => resolve(complaint));
  });
  const parameters = { user: "postgres", replication: "true", application_name: name, options };
  const body = Buffer.concat([
    int32(0x30000),
    ...Object.entries(parameters).flatMap(([key, value]) => [text(key), text(value)]),
    Buffer.from([0]),
  ]);
  socket.write(Buffer.concat([int32(body.length + 4), body]));
  await streaming;
  return {
    say: (bytes) => {
      socket.write(message("d", bytes));
    },
    said: async () => {
      const before = keepalives;
      // a reply that asks for an answer
      socket.write(
        message("d", Buffer.concat([Buffer.from("r"), Buffer.alloc(32), Buffer.from([1]), Buffer.alloc(8)])),
      );
      await poll(() => keepalives > before || socket.destroyed, { what: "an answer", timeoutMs: 10_000 });
    },
    ended,
    close: () => {
      socket.destroy();
    },
  };
}

/** Repeatable bytes. */
export const noise = (seed: number, length: number): Buffer => {
  const parts: Buffer[] = [];
  for (let i = 0; parts.length * 32 < length; i++)
    parts.push(createHash("sha256").update(`${seed} ${i}`).digest());
  return Buffer.concat(parts).subarray(0, length);
};
