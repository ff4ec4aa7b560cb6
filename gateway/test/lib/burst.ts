/**
 * A thread whose clients all have something at once: it answers each piece by as many bytes, but after it has stood
 * still it answers the first few with more than a socket takes.
 */
import { parentPort, workerData } from "node:worker_threads";
import { buildNative } from "../../src/transport/native-build.ts";
import { NativeTransport } from "../../src/transport/native-transport.ts";
import type { Link, LinkOwner } from "../../src/transport/transport.ts";

export type BurstOptions = {
  readonly sources: string;
  readonly large: Uint8Array;
  readonly mostLarge: number;
};
export type Burst =
  | { readonly kind: "listens"; readonly port: number }
  | { readonly kind: "stands-still"; readonly filled: number; readonly full: number }
  | {
      readonly kind: "report";
      readonly uring: boolean;
      readonly streams: number;
      readonly bugs: readonly string[];
    };
/** Stand still until this is no longer 0, or tell how it went. */
export type BurstOrder = Int32Array<SharedArrayBuffer> | "report";

const { sources, large, mostLarge } = workerData as BurstOptions;
const build = buildNative(sources);
if (!("file" in build)) throw new Error(build.reason);
const bugs: string[] = [];
const transport = NativeTransport.get(build.file, (error) => bugs.push(String(error)));
const say = (what: Burst): void => parentPort?.postMessage(what);
const sides: Side[] = [];

class Side implements LinkOwner {
  readonly link: Link;
  /** It has been given about as much as its socket takes, and so is given more. */
  full = false;

  constructor(link: Link) {
    this.link = link;
    sides.push(this);
  }

  data(bytes: Buffer, start: number, end: number): void {
    if (this.full) this.link.send(large, 0, large.length);
    else this.link.send(bytes, start, end);
  }

  drained(): void {}
  closed(): void {}
}

const piece = Buffer.alloc(32_768, "p");

/** Until something is left over, or so many bytes. */
function fill({ link }: Side, mostBytes: number): number {
  let bytes = 0;
  for (; link.queued === 0 && bytes < mostBytes; bytes += piece.length)
    transport.turn(() => link.send(piece, 0, piece.length));
  return bytes;
}

const listener = await transport.listen({ host: "127.0.0.1", port: 0 }, (link) => new Side(link));
parentPort?.on("message", (order: BurstOrder) => {
  if (order === "report") {
    say({ kind: "report", uring: transport.uring, streams: transport.streams, bugs });
    return;
  }
  const [first, ...others] = sides.slice(0, 1 + mostLarge);
  const takes = first === undefined ? 0 : fill(first, 64_000_000);
  let filled = takes;
  for (const side of others) {
    filled += fill(side, takes - large.length / 2);
    side.full = side.link.queued === 0;
  }
  say({ kind: "stands-still", filled, full: others.filter((side) => side.full).length });
  Atomics.wait(order, 0, 0, 20_000);
});
say({ kind: "listens", port: listener.port });
