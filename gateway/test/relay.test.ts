/**
 * The native transport by itself, with and without io_uring: random pieces, small and large, through a relay that
 * pauses its links; everything comes back as it was, in order, and no connection is left over.
 */
import { readdirSync, readlinkSync } from "node:fs";
import * as net from "node:net";
import { Worker } from "node:worker_threads";
import { poll } from "@quorate/common";
import t from "tap";
import { type Random, randomFrom } from "./lib/random.ts";
import type { RelayOptions, RelayReport } from "./lib/relay.ts";

t.setTimeout(120_000);
const clients = 40;
const rounds = 60;

function sockets(): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:");
    } catch {
      return false;
    }
  }).length;
}

/** Mostly small pieces, in runs, so that the kernel receives; then a large one, so that it doesn't any more. */
function lengthOf(random: Random): number {
  const kind = random.below(20);
  if (kind === 0) return 1 + random.below(400_000);
  if (kind === 1) return 4096;
  if (kind === 2) return 2048 + random.below(4096);
  return 1 + random.below(300);
}

/** True if it ended by itself: what it sent came back. */
async function run(port: number, seed: number): Promise<boolean> {
  const random = randomFrom(seed);
  const socket = net.connect(port, "127.0.0.1");
  socket.setNoDelay(true);
  const echoOf = (length: number) =>
    new Promise<Buffer>((resolve, reject) => {
      const parts: Buffer[] = [];
      let missing = length;
      const data = (part: Buffer) => {
        parts.push(part);
        missing -= part.length;
        if (missing > 0) return;
        socket.off("data", data);
        socket.off("close", closed);
        if (missing < 0) reject(new Error("more came back than was sent"));
        resolve(Buffer.concat(parts));
      };
      socket.on("data", data);
      const closed = () => reject(new Error(`client ${seed} was closed`));
      socket.once("close", closed);
    });
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  socket.on("error", () => {});
  for (let round = 0; round < rounds; round++) {
    const count = 1 + random.below(4);
    const sent: Buffer[] = [];
    const wanted = Array.from({ length: count }, () => lengthOf(random));
    const back = echoOf(wanted.reduce((sum, each) => sum + each, 0));
    for (const length of wanted) {
      const piece = Buffer.alloc(length);
      for (let at = 0; at < length; at++) piece[at] = random.below(256);
      sent.push(piece);
      socket.write(piece);
      if (random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    if (seed % 4 === 3 && round === rounds >> 1) {
      back.catch(() => {});
      if (seed % 8 === 3) socket.resetAndDestroy();
      else socket.destroy();
      return false;
    }
    if (!(await back).equals(Buffer.concat(sent)))
      throw new Error(`client ${seed}, round ${round}: other bytes`);
  }
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.end();
  await closed;
  return true;
}

for (const uring of [true, false]) {
  t.test(uring ? "io_uring where there is one" : "epoll", async (t) => {
    const echo = net.createServer((socket) => {
      socket.setNoDelay(true);
      socket.on("error", () => {});
      socket.pipe(socket);
    });
    await new Promise<void>((resolve) => echo.listen(0, "127.0.0.1", resolve));
    const { port: serverPort } = echo.address() as net.AddressInfo;
    const workerData: RelayOptions = { uring, serverPort };
    const relay = new Worker(new URL("./lib/relay.ts", import.meta.url), { workerData });
    const next = <T>() =>
      new Promise<T>((resolve, reject) => relay.once("message", resolve).once("error", reject));
    const port = await next<number>();
    const ask = async (): Promise<RelayReport> => {
      const answer = next<RelayReport>();
      relay.postMessage("report");
      return await answer;
    };
    const before = sockets();
    const ended = await Promise.all(Array.from({ length: clients }, (_, seed) => run(port, seed)));
    t.equal(ended.filter(Boolean).length, clients - clients / 4);
    await poll(async () => (await ask()).links === 0, { timeoutMs: 30_000, what: "all links to be gone" });
    await poll(async () => sockets() <= before, { timeoutMs: 30_000, what: "all sockets to be closed" });
    const report = await ask();
    t.same(report.bugs, []);
    if (report.uring) t.ok(report.streams > clients, `${report.streams} receives were the kernel's`);
    else t.equal(report.streams, 0);
    if (!uring) t.notOk(report.uring);
    await relay.terminate();
    await new Promise((resolve) => echo.close(resolve));
  });
}

for (const uring of [true, false]) {
  t.test(`what promises send takes no other's place (${uring ? "io_uring" : "epoll"})`, async (t) => {
    const workerData: RelayOptions = { uring, serverPort: undefined };
    const relay = new Worker(new URL("./lib/relay.ts", import.meta.url), { workerData });
    const port = await new Promise<number>((resolve) => relay.once("message", resolve));
    const open = async () => {
      const socket = net.connect(port, "127.0.0.1");
      const heard = { socket, text: "" };
      socket.on("data", (part) => {
        heard.text += part.toString("latin1");
      });
      await new Promise((resolve) => socket.once("connect", resolve));
      return heard;
    };
    const [asking, hearing] = [await open(), await open()];
    for (let round = 1; round <= 20; round++) {
      asking.socket.write("x");
      await poll(() => asking.text.length >= 1000 * round && hearing.text.length >= 10 * round, {
        timeoutMs: 10_000,
        what: `both to have heard of round ${round}`,
      });
    }
    t.equal(asking.text, "a".repeat(20_000));
    t.equal(hearing.text, "b".repeat(200));
    asking.socket.destroy();
    hearing.socket.destroy();
    await relay.terminate();
  });
}
