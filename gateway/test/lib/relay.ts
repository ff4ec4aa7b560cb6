/** A thread that passes bytes between clients and a server by the native transport, pausing links now and then. */
import { parentPort, workerData } from "node:worker_threads";
import { buildNative } from "../../src/transport/native-build.ts";
import { NativeTransport } from "../../src/transport/native-transport.ts";
import { type Link, type LinkOwner, queueHighBytes } from "../../src/transport/transport.ts";

export type RelayOptions = {
  readonly uring: boolean;
  /** Undefined: no relay, but every piece is answered at once, and all others hear of it by way of a promise. */
  readonly serverPort: number | undefined;
};
export type RelayReport = {
  readonly uring: boolean;
  readonly streams: number;
  readonly links: number;
  readonly bugs: readonly string[];
};

const { uring, serverPort } = workerData as RelayOptions;
const build = buildNative();
if (!("file" in build)) throw new Error(build.reason);
const bugs: string[] = [];
const transport = NativeTransport.get(build.file, (error) => bugs.push(String(error)), uring);
let links = 0;
let pieces = 0;

let late: { readonly to: Side; readonly bytes: Buffer } | undefined;

function sendLate(): void {
  const { to, bytes } = late ?? {};
  late = undefined;
  if (bytes !== undefined) to?.link.send(bytes, 0, bytes.length);
}
setInterval(() => transport.turn(sendLate), 2);

class Side implements LinkOwner {
  link!: Link;
  other!: Side;
  over = false;
  readonly plain = true;

  data(bytes: Buffer, start: number, end: number): void {
    const { other } = this;
    if (late !== undefined && late.to === other) sendLate();
    // In two parts now and then, with another link's bytes in between: two sends of one turn to one connection.
    const middle = ++pieces % 5 === 0 && late === undefined ? start + ((end - start) >> 1) : end;
    other.link.send(bytes, start, middle);
    sendLate();
    if (middle < end) late = { to: other, bytes: Buffer.from(bytes.subarray(middle, end)) };
    if (other.link.queued > queueHighBytes) this.link.pause();
    else if (pieces % 97 === 0) {
      this.link.pause();
      setTimeout(() => transport.turn(() => this.link.resume()), 3);
    }
  }

  drained(): void {
    this.other.link.resume();
  }

  closed(): void {
    links--;
    this.over = true;
    if (late?.to === this.other) sendLate();
    if (!this.other.over) this.other.link.close();
  }
}

const answering = new Set<Answering>();

class Answering implements LinkOwner {
  readonly link: Link;

  constructor(link: Link) {
    this.link = link;
    answering.add(this);
  }

  data(): void {
    this.link.send(Buffer.alloc(1000, "a"), 0, 1000);
    void Promise.resolve().then(() => {
      for (const each of answering) if (each !== this) each.link.send(Buffer.alloc(10, "b"), 0, 10);
    });
  }

  drained(): void {}

  closed(): void {
    answering.delete(this);
  }
}

const listener = await transport.listen({ host: "127.0.0.1", port: 0 }, (link) => {
  if (serverPort === undefined) return new Answering(link);
  const client = new Side();
  const server = new Side();
  client.link = link;
  client.other = server;
  server.other = client;
  links += 2;
  server.link = transport.connect(
    { host: "127.0.0.1", port: serverPort, timeoutMs: 10_000 },
    Object.assign(server, { connected() {} }),
  );
  return client;
});
parentPort?.on("message", () => {
  parentPort?.postMessage({
    uring: transport.uring,
    streams: transport.streams,
    links,
    bugs,
  } satisfies RelayReport);
});
parentPort?.postMessage(listener.port);
