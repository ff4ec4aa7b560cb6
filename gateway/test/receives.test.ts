/**
 * With io_uring there must be room for all completions that can come in one turn: one that has to wait in the kernel
 * may be that of a send that went in part, whose rest would be lost. So receives in the kernel's hands are bounded
 * (MOST_RECEIVES). Here everything is small, so that few clients fill the ring; the control is without the bound.
 */
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import * as net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { Worker } from "node:worker_threads";
import { poll } from "@quorate/common";
import t, { type Test } from "tap";
import type { Burst, BurstOptions, BurstOrder } from "./lib/burst.ts";

t.setTimeout(120_000);
const clients = 40;
const mostLarge = 2;
const native = path.join(import.meta.dirname, "../native");
/** Less than the output area, so that it is the kernel's that sends it. */
const large = Buffer.alloc(480_000, "0123456789abcdef!");

/** The addon's sources with other sizes. */
async function sourcesWith(sizes: Readonly<Record<string, number>>): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), "gateway-receives-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  for (const name of await readdir(native))
    if (/\.[ch]$/.test(name)) await copyFile(path.join(native, name), path.join(directory, name));
  const header = path.join(directory, "uring.h");
  let text = await readFile(header, "utf8");
  for (const [name, size] of Object.entries(sizes)) {
    const line = new RegExp(`^#define ${name} \\d+$`, "m");
    if (!line.test(text)) throw new Error(`uring.h defines no ${name}`);
    text = text.replace(line, `#define ${name} ${size}`);
  }
  await writeFile(header, text);
  return directory;
}

class Client {
  readonly socket: net.Socket;
  heard = 0;

  constructor(port: number) {
    this.socket = net.connect(port, "127.0.0.1");
    this.socket.setNoDelay(true);
    this.socket.on("error", () => {});
    this.socket.on("data", (part) => {
      this.heard += part.length;
    });
  }
}

type Outcome = { readonly missing: number; readonly uring: boolean; readonly streams: number };

/** How many bytes don't come back after all clients have sent one while the thread stood still; `loses`: some won't. */
async function burst(t: Test, sources: string, loses: boolean): Promise<Outcome> {
  const workerData: BurstOptions = { sources, large, mostLarge };
  const worker = new Worker(new URL("./lib/burst.ts", import.meta.url), { workerData });
  const next = () =>
    new Promise<Burst>((resolve, reject) => worker.once("message", resolve).once("error", reject));
  const order = (what: BurstOrder): Promise<Burst> => {
    const answer = next();
    worker.postMessage(what);
    return answer;
  };
  try {
    const listens = await next();
    if (listens.kind !== "listens") throw new Error(listens.kind);
    const all = Array.from({ length: clients }, () => new Client(listens.port));
    const total = () => all.reduce((sum, { heard }) => sum + heard, 0);
    // One after the other and calmly, so that the kernel is to receive for each of them, if it may.
    for (let round = 1; round <= 10; round++)
      for (const client of all) {
        client.socket.write("x");
        await poll(() => client.heard >= round, { timeoutMs: 20_000, intervalMs: 1, what: "an answer" });
      }
    const before = total();
    for (const { socket } of all) socket.pause();
    const go = new Int32Array(new SharedArrayBuffer(4));
    const still = await order(go);
    if (still.kind !== "stands-still") throw new Error(still.kind);
    for (const { socket } of all) await new Promise((resolve) => socket.write("x", resolve));
    Atomics.store(go, 0, 1);
    Atomics.notify(go, 0);
    const report = await order("report");
    if (report.kind !== "report") throw new Error(report.kind);
    t.same(report.bugs, []);
    for (const { socket } of all) socket.resume();
    const wanted = clients - still.full + still.full * large.length + still.filled;
    t.ok(still.full > 0, "there are clients whose sockets take only a part of what they get");
    const isThere = () => total() - before >= wanted;
    const what = "the answers";
    if (!loses) await poll(isThere, { timeoutMs: 60_000, what });
    else
      for (let last = -1; !isThere() && total() !== last; ) {
        last = total();
        await order("report"); // it isn't busy
        await poll(isThere, { timeoutMs: 3_000, what }).catch(() => undefined);
      }
    for (const { socket } of all) socket.destroy();
    return { missing: wanted - (total() - before), uring: report.uring, streams: report.streams };
  } finally {
    await worker.terminate();
  }
}

const room = { CQ_ENTRIES: 8, SQ_ENTRIES: 8, BUFFERS: 2 };

t.test("room for every completion: nothing is lost", async (t) => {
  const { missing, uring, streams } = await burst(t, await sourcesWith({ ...room, MOST_RECEIVES: 1 }), false);
  t.equal(missing, 0);
  if (uring) t.ok(streams > 0, `${streams} receives were the kernel's`);
});

t.test("control: without the bound the rest of what went in part is lost", async (t) => {
  const { missing, uring, streams } = await burst(
    t,
    await sourcesWith({ ...room, MOST_RECEIVES: 1_000_000 }),
    true,
  );
  if (!uring) return t.equal(missing, 0, "no io_uring here");
  t.ok(streams >= clients, `${streams} receives were the kernel's`);
  t.ok(missing > 0, `${missing} bytes are missing`);
});
