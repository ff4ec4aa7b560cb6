/** Measuring for bench/gateway.ts: CPU time and memory as the operating system counts them, transactions by pgbench. */
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "@quorate/common";
import type { TestPostgres } from "../gateway/test/lib/postgres.ts";
import { repoRoot } from "../scripts/lib/repo.ts";
import type { Target } from "./gateway-targets.ts";

export type Case = {
  readonly title: string;
  /** pgbench's options but for the number of clients and transactions. */
  readonly args: readonly string[];
  readonly clients: number;
  readonly transactions: number;
  readonly tls: boolean;
};

export type Result = {
  readonly tps: number;
  /** µs of the proxy's CPU per transaction. */
  readonly cpu: number | undefined;
};

/** CPU time of all threads of a process. */
export function cpuMicroseconds(pid: number): number {
  let nanoseconds = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]);
  }
  return nanoseconds / 1000;
}

function privateKb(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return [...text.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB/gm)].reduce(
    (sum, found) => sum + Number(found[1]),
    0,
  );
}

/** Undefined when pgbench fails: the target can't do this. */
export async function measure(
  target: Target,
  postgres: TestPostgres,
  each: Case,
): Promise<Result | undefined> {
  const perClient = Math.max(1, Math.round(each.transactions / each.clients));
  const before = target.pid === undefined ? 0 : cpuMicroseconds(target.pid);
  const where = `host=127.0.0.1 port=${target.port} user=postgres dbname=postgres sslmode=${each.tls ? "require" : "disable"}`;
  const result = await run(
    path.join(postgres.build.bin, "pgbench"),
    ["-n", ...each.args, "-c", String(each.clients), "-j", "1", "-t", String(perClient), where],
    { timeoutMs: 600_000, okCodes: [0, 1, 2] },
  );
  const tps = Number(/tps = ([\d.]+) \((?:without|including|excluding)?/.exec(result.stdout)?.[1]);
  if (result.code !== 0 || !(tps > 0)) return undefined;
  if (target.pid === undefined) return { tps, cpu: undefined };
  return { tps, cpu: (cpuMicroseconds(target.pid) - before) / (perClient * each.clients) };
}

const perHolder = 5_000;
/** A heap that has grown while clients came is swept when nothing happens any more; that is soon enough. */
const calmMs = 20_000;

export type IdleMemory = {
  /** Bytes of private memory per client, right after the last has come … */
  readonly atOnce: number;
  /** … and when nothing has happened for a while. */
  readonly later: number;
};

/** What so many idle clients cost each target, all at the same time. The clients are in processes of their own. */
export async function idleMemory(
  targets: readonly Target[],
  count: number,
  tls: boolean,
): Promise<IdleMemory[]> {
  const pids = targets.map(({ pid }) => pid ?? 0);
  const holders: ChildProcess[] = [];
  const bytesEach = (before: readonly number[]): number[] =>
    pids.map((pid, at) => ((privateKb(pid) - (before[at] ?? 0)) * 1024) / count);
  let address = 0;
  try {
    // One of them first: what is made once is not a client's.
    for (const { port } of targets) holders.push(await hold(port, 1, address++, tls));
    const before = pids.map(privateKb);
    for (const { port } of targets)
      for (let held = 0; held < count; held += perHolder)
        holders.push(await hold(port, Math.min(perHolder, count - held), address++, tls));
    const atOnce = bytesEach(before);
    await sleep(calmMs);
    return bytesEach(before).map((later, at) => ({ atOnce: atOnce[at] as number, later }));
  } finally {
    await Promise.all(
      holders.map((each) => {
        const ended = new Promise((resolve) => each.once("exit", resolve));
        each.kill("SIGKILL");
        return ended;
      }),
    );
  }
}

/** Resolves when all of its clients are logged in. */
function hold(port: number, count: number, number: number, tls: boolean): Promise<ChildProcess> {
  const args = ["bench/gateway-holder.ts", String(port), String(count), `127.0.0.${number + 2}`, String(tls)];
  const child = spawn(process.execPath, args, { cwd: repoRoot, stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    child.stdout?.once("data", () => resolve(child));
    child.once("exit", (code) =>
      reject(new Error(`${count} idle clients could not be held: exit code ${code}`)),
    );
  });
}
