/** Programs that keep Postgres from stopping, as its archive_command may; shells stand for both. */
import { spawn } from "node:child_process";
import { descendants, isAlive, poll } from "@quorate/common";
import t, { type Test } from "tap";
import { endHangingPrograms } from "../src/postgres-programs.ts";

/** Ends when its last program has. */
function parent(test: Test, script: string): { readonly pid: number; readonly ended: Promise<unknown> } {
  const shell = spawn("sh", ["-c", script], { stdio: "ignore" });
  const ended = new Promise((resolve) => shell.once("exit", resolve));
  test.teardown(() => void shell.kill("SIGKILL"));
  return { pid: shell.pid ?? 0, ended };
}

t.test("a program that hangs is ended with all that it started; others may follow", async (test) => {
  const { pid, ended } = parent(test, 'sh -c "sleep 600; :"; sleep 0.1');
  await poll(() => descendants(pid).length === 2, { what: "the programs", timeoutMs: 10_000 });
  const [inner, sleeper] = descendants(pid).map((each) => each.pid);
  const stop = endHangingPrograms(pid, 300);
  test.teardown(stop);
  await ended;
  for (const each of [inner, sleeper])
    test.ok(await poll(() => !isAlive(each ?? 0), { what: `${each} to end`, timeoutMs: 10_000 }));
});

t.test("a program that ends in time is left alone, however many there are", async (test) => {
  const { pid, ended } = parent(test, "for i in 1 2 3 4 5 6 7 8; do sleep 0.2 || exit 3; done");
  const stop = endHangingPrograms(pid, 1_200);
  test.teardown(stop);
  test.equal(await ended, 0, "none was ended by a signal");
});

t.test("nothing is ended before its time, or by one that was called off", async (test) => {
  const { pid, ended } = parent(test, "sleep 600; :");
  await poll(() => descendants(pid).length === 1, { what: "the program", timeoutMs: 10_000 });
  endHangingPrograms(pid, 0)();
  endHangingPrograms(pid, 300)();
  const sinceMs = performance.now();
  test.teardown(endHangingPrograms(pid, 1_500));
  await ended;
  test.ok(performance.now() - sinceMs >= 1_500, "only the last one ended it");
});
