// A planned change that is interrupted at every step (orchestrator/src/cli/interrupt.ts): after each interruption clients
// can write, and the same command brings it to its end.
import { execFile } from "node:child_process";
import type { Test } from "tap";
import type { AppendClient } from "./append-client.ts";
import { quorate, quorateBin, type TestCluster } from "./cluster.ts";
import { nextAck } from "./scenario.ts";

export interface Interrupted {
  readonly cluster: TestCluster;
  readonly append: AppendClient;
  readonly verb: readonly string[];
  /** What must be so when the verb has come to its end. */
  readonly reached: () => Promise<unknown>;
  /** Back to where it began. */
  readonly undo: () => Promise<unknown>;
  /** Only these; default: all, until the verb ends without being interrupted. */
  readonly steps?: readonly number[];
}

const most = 60;

/** The exit code, or the signal that ended it. */
function endedAt(step: number, args: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    const env = { ...process.env, QUORATE_TEST_END_AT_STEP: String(step) };
    const child = execFile(process.execPath, [quorateBin, ...args], { env });
    // quorate.js hands on how its child ended.
    child.once("exit", (code, signal) => resolve(signal ?? (code === 137 ? "SIGKILL" : String(code))));
  });
}

/** Returns the number of steps at which it was interrupted. */
export async function interruptEverywhere(test: Test, change: Interrupted): Promise<number> {
  const { cluster, append, verb, reached, undo } = change;
  const args = [...verb, "--dir", cluster.dir];
  const steps = change.steps ?? Array.from({ length: most }, (_, index) => index + 1);
  let interrupted = 0;
  for (const step of steps) {
    const end = await endedAt(step, args);
    if (end === "0") {
      cluster.reopen();
      await reached();
      await undo();
      break;
    }
    test.equal(end, "SIGKILL", `quorate ${verb.join(" ")} is interrupted at step ${step}`);
    interrupted += 1;
    await nextAck(append);
    const again = await quorate(...args);
    test.equal(again.code, 0, `and goes on: ${again.stdout}${again.stderr}`);
    cluster.reopen();
    await nextAck(append);
    await reached();
    await undo();
    await cluster.waitUntilWhole();
  }
  test.ok(interrupted > 0, `${verb.join(" ")}: interrupted at ${interrupted} steps`);
  return interrupted;
}
