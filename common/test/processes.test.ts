import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "tap";
import {
  descendants,
  freePortRange,
  freePorts,
  isAlive,
  killTree,
  poll,
  processFacts,
  sendSignal,
  sleep,
  waitForExit,
} from "../src/index.ts";

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error("not started");
  return child.pid;
}

test("facts of a process; one that has ended is not alive", async (t) => {
  const child = spawn("sleep", ["60"]);
  const pid = pidOf(child);
  const facts = processFacts(pid);
  t.equal(facts?.parentPid, process.pid);
  t.equal(isAlive(pid, facts?.startTicks), true);
  t.equal(isAlive(pid, (facts?.startTicks ?? 0) + 1), false, "the same pid in another life");
  const ended = once(child, "exit");
  t.equal(sendSignal(pid, "SIGKILL"), true);
  await waitForExit(pid, { timeoutMs: 5000 });
  await ended;
  t.equal(isAlive(pid), false);
  t.equal(sendSignal(pid, "SIGKILL"), false);
  t.equal(processFacts(pid), undefined);
});

test("process groups and init can't be hit by accident", async (t) => {
  for (const pid of [-1, 0, 1, Number.NaN]) t.throws(() => sendSignal(pid, "SIGTERM"), RangeError);
});

test("killTree ends grandchildren too", async (t) => {
  const child = spawn("sh", ["-c", "sh -c 'sleep 60 & sleep 60; true' & sleep 60; true"]);
  const pid = pidOf(child);
  const tree = await poll(
    () => {
      const found = descendants(pid);
      return found.length >= 4 && found;
    },
    { what: "the grandchildren", timeoutMs: 5000 },
  );
  const ended = once(child, "exit");
  const signalled = killTree(pid);
  await ended;
  for (const each of tree) {
    t.ok(signalled.includes(each.pid));
    await waitForExit(each.pid, { timeoutMs: 5000, startTicks: each.startTicks });
  }
});

test("waits have a bound and listen to their signal", async (t) => {
  await t.rejects(
    poll(() => false, { what: "nothing", timeoutMs: 30 }),
    {
      code: "timed_out",
      message: /nothing/,
    },
  );
  const reason = new Error("enough");
  await t.rejects(sleep(60_000, AbortSignal.abort(reason)), reason);
  await t.rejects(
    poll(() => false, { what: "nothing", timeoutMs: 60_000, signal: AbortSignal.timeout(20) }),
    { name: "TimeoutError" },
  );
});

test("ports that are given lie below those that Linux hands out to clients", async (t) => {
  t.ok(Math.max(...(await freePorts(50))) < 32_768);
  t.ok((await freePortRange()) + 60 <= Math.min(...(await freePorts(50))), "ranges lie below single ones");
});

test("a range of ports is another caller's no more", async (t) => {
  const first = await freePortRange();
  const reserved = createServer().listen(first + 59, "127.0.0.1");
  const [error] = await once(reserved, "error");
  t.match(error, { code: "EADDRINUSE" });
  const server = createServer().listen(first, "127.0.0.1");
  await once(server, "listening");
  server.close();
});

test("free ports are different and can be bound", async (t) => {
  const ports = await freePorts(20);
  t.equal(new Set(ports).size, 20);
  for (const port of ports.slice(0, 3)) {
    const server = createServer().listen(port, "127.0.0.1");
    await once(server, "listening");
    server.close();
    await once(server, "close");
  }
});
