/** The thread of one worker: what Worker needs from outside comes as messages from the main thread. */
import { parentPort, workerData } from "node:worker_threads";
import type { Logger } from "@quorate/common";
import { runCommand, type Table } from "../admin/console.ts";
import { metricsText } from "../admin/metrics.ts";
import { NodeLimits } from "../budget/node-limits.ts";
import { makeWorker, type WorkerParts } from "../make-worker.ts";
import { SettableLeaderSource } from "../route/leader-source.ts";
import { keepHeapSmall } from "../small-heap.ts";
import { Counters } from "./counters.ts";
import type { Answer, FromThread, ThreadData, ToThread } from "./messages.ts";

const port = parentPort;
if (port === null) throw new Error("this is the file of a worker's thread: it is started by the gateway");
const data = workerData as ThreadData;
const say = (message: FromThread): void => port.postMessage(message);

const logOf =
  (level: "info" | "warn" | "error") =>
  (fields: Record<string, unknown>, text: string): void => {
    const plain = Object.fromEntries(
      Object.entries(fields).map(([name, value]) => [
        name,
        value instanceof Error ? (value.stack ?? value.message) : value,
      ]),
    );
    say({ kind: "log", level, fields: { worker: data.workerId, ...plain }, text });
  };
const log = { info: logOf("info"), warn: logOf("warn"), error: logOf("error") } as unknown as Logger;

const leaders = new SettableLeaderSource(data.view);
const counters = new Counters(data.counters, data.workerId);
const limits = new NodeLimits(data.limits, data.workerId);
limits.slots = data.slots;
const asked = new Map<number, (result: Table | { readonly error: string }) => void>();
let nextId = 0;

const parts: WorkerParts = {
  config: data.config,
  workerId: data.workerId,
  leaders,
  log,
  counters,
  limits,
  wantMore: (node) => say({ kind: "want-more", node }),
  forwardCancel: (key) => say({ kind: "cancel", key }),
  makeRoom: () => say({ kind: "make-room" }),
  reload: () => say({ kind: "reload" }),
  shutdown: () => say({ kind: "shutdown" }),
  everywhere: (words) =>
    new Promise((resolve) => {
      const id = nextId++;
      asked.set(id, resolve);
      say({ kind: "everywhere", id, words });
    }),
};
const { worker, reconfigure } = await makeWorker(parts);
keepHeapSmall();

function answerTo(words: readonly string[]): Answer {
  try {
    const table = runCommand(worker, words);
    const { counts, count, sumMs } = worker.latency;
    return { table, latency: { counts, count, sumMs } };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

port.on("message", (message: ToThread) => {
  switch (message.kind) {
    case "view":
      limits.slots = message.slots;
      leaders.set(message.view);
      return;
    case "config":
      reconfigure(message.config);
      return;
    case "cancel":
      worker.options.transport.turn(() => worker.cancel(message.key, true));
      return;
    case "make-room":
      worker.options.transport.turn(() => worker.room.make());
      return;
    case "limits":
      worker.options.transport.turn(() => worker.room.changed());
      return;
    case "command":
      worker.options.transport.turn(() =>
        say({ kind: "answer", id: message.id, answer: answerTo(message.words) }),
      );
      return;
    case "metrics":
      say({ kind: "answer", id: message.id, answer: { metrics: metricsText(worker) } });
      return;
    case "result": {
      const resolve = asked.get(message.id);
      asked.delete(message.id);
      resolve?.(message.answer);
      return;
    }
    case "drain":
      worker.drain().then(() => say({ kind: "drained" }));
      return;
  }
});

try {
  const { host, readPort } = data.config.listen;
  const listening = await worker.listen(host, data.port);
  if (readPort !== undefined) await worker.listen(host, readPort, true);
  say({ kind: "listening", port: listening });
} catch (error) {
  say({ kind: "failed", reason: (error as Error).message });
}
