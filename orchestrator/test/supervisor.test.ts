// The processes of a local cluster, over fake programs of Postgres: whoever dies, the rest goes on and is taken over.
import { execFile } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePortRange, isAlive, killTree, poll, sendSignal } from "@quorate/common";
import t from "tap";
import { writeFakePrograms } from "../../sidecar/test/harness.ts";
import { takePicture } from "../src/cli/sightings.ts";
import { openCluster, paths } from "../src/cluster/files.ts";
import { livePid } from "../src/cluster/processes.ts";

const bin = fileURLToPath(new URL("../bin/quorate.js", import.meta.url));
const dir = mkdtempSync(path.join(tmpdir(), "qsup-"));
chmodSync(dir, 0o755);
writeFakePrograms(path.join(dir, "bin"));
const at = path.join(dir, "cluster");

async function quorate(...args: string[]): Promise<string> {
  const env = { ...process.env, QUORATE_BIN_DIR: path.join(dir, "bin") };
  const run = await promisify(execFile)(process.execPath, [bin, ...args, "--dir", at], {
    env,
    timeout: 60_000,
  });
  return run.stdout;
}

const pidOf = {
  supervisor: () => livePid(paths.supervisorPid(at), at),
  sidecar: () => livePid(paths.sidecarPid(at, "n1"), paths.sidecarConfig(at, "n1")),
  orchestrator: () => livePid(paths.orchestratorPid(at, "o1"), paths.orchestratorConfig(at, "o1")),
  postgres: () => livePid(paths.postmasterPid(at, "n1")),
};

t.teardown(async () => {
  await quorate("down").catch(() => undefined);
  for (const pid of Object.values(pidOf)) {
    const running = pid();
    if (running !== undefined) killTree(running);
  }
  rmSync(dir, { recursive: true, force: true });
});

async function another(which: keyof typeof pidOf, than: number): Promise<number> {
  return poll(
    () => {
      const pid = pidOf[which]();
      return pid !== undefined && pid !== than ? pid : undefined;
    },
    { what: `another ${which}`, timeoutMs: 20_000 },
  );
}

function kill(which: keyof typeof pidOf): number {
  const pid = pidOf[which]();
  if (pid === undefined) throw new Error(`no ${which} runs`);
  sendSignal(pid, "SIGKILL");
  return pid;
}

async function leads(): Promise<boolean> {
  return (await takePicture(openCluster(at))).leader === "n1";
}

t.test("a new cluster of one node", async (test) => {
  const base = String(await freePortRange());
  const output = await quorate("up", "--nodes", "1", "--base-port", base, "--no-backup", "--detach");
  test.match(output, /postgresql:\/\/app:.*@127\.0\.0\.1:/);
  test.ok(await leads());
});

t.test("the supervisor starts what was killed; Postgres stays", async (test) => {
  const postgres = pidOf.postgres();
  await another("sidecar", kill("sidecar"));
  await another("orchestrator", kill("orchestrator"));
  await poll(leads, { what: "n1 to lead", timeoutMs: 20_000 });
  test.equal(pidOf.postgres(), postgres);
});

t.test("a new supervisor takes over from a killed one; Postgres stays", async (test) => {
  const before = { sidecar: pidOf.sidecar(), postgres: pidOf.postgres() };
  kill("supervisor");
  await quorate("up", "--detach");
  test.ok(await leads());
  test.not(pidOf.sidecar(), before.sidecar);
  test.equal(before.sidecar !== undefined && isAlive(before.sidecar), false);
  test.equal(pidOf.postgres(), before.postgres);
});

t.test("a killed Postgres leads again in a new term", async (test) => {
  const { term } = await takePicture(openCluster(at));
  await quorate("node", "kill", "n1");
  await poll(async () => (await leads()) && (await takePicture(openCluster(at))).term > term, {
    what: "a new term",
    timeoutMs: 20_000,
  });
  test.pass();
});

t.test("down stops all of it, also what has lost its supervisor, and --purge removes it", async (test) => {
  const pids = Object.values(pidOf).map((pid) => pid());
  kill("supervisor");
  await quorate("down", "--purge");
  test.same(
    pids.filter((pid) => pid !== undefined && isAlive(pid)),
    [],
  );
  test.notOk(existsSync(at));
});
