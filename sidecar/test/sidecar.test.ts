/** The whole process, over fake programs: what it promises, starts, adopts, repairs and says. */
import { once } from "node:events";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { poll } from "@quorate/common";
import { coordinatorId, nodeId, term } from "@quorate/consensus";
import { clientCredentials, connectSidecar } from "@quorate/proto";
import t, { type Test } from "tap";
import { SidecarUnderTest } from "./harness.ts";

const o1 = coordinatorId("o1");
const o2 = coordinatorId("o2");
const ruleset = { version: 1, text: "{}" };

async function started(test: Test, settings: object = {}): Promise<SidecarUnderTest> {
  const sidecar = await SidecarUnderTest.make(test, settings);
  await sidecar.start();
  return sidecar;
}

async function leader(test: Test, settings: object = {}): Promise<SidecarUnderTest> {
  const sidecar = await started(test, settings);
  await sidecar.bootstrap();
  await sidecar.client.recruit({ term: term(2), coordinator: o1, reason: "first" });
  const elected = await sidecar.client.elect({
    term: term(2),
    coordinator: o1,
    rule: "n1",
    joint: [],
    ruleset,
  });
  if (!elected.ok) throw new Error(elected.refusal.message);
  await sidecar.until("leader", (status) => status.state === "leader");
  return sidecar;
}

t.test("a new node waits; bootstrap makes its data and leaves a fenced follower", async (t) => {
  const sidecar = await started(t);
  t.match(await sidecar.client.getStatus(), { postgres: "absent", pid: null, promisedTerm: 0, state: null });
  t.match(await sidecar.client.recruit({ term: term(2), coordinator: o1, reason: "" }), {
    ok: false,
    refusal: { code: "no_data" },
  });
  t.match(await sidecar.client.bootstrap({ cluster: "other" }), { refusal: { code: "wrong_cluster" } });
  t.match(await sidecar.client.bootstrap({ cluster: "main" }), {
    ok: true,
    systemIdentifier: "7441000000000000001",
  });
  t.match(await sidecar.client.getStatus(), { postgres: "running", state: "fenced", inRecovery: true });
  t.match(await sidecar.client.bootstrap({ cluster: "main" }), { refusal: { code: "has_data" } });
  const sql = sidecar.file("data/fake-sql.txt");
  t.match(sql, /CREATE ROLE quorate_replication LOGIN REPLICATION PASSWORD 'SCRAM-SHA-256\$/);
  t.match(sql, /CREATE DATABASE app OWNER app/);
  t.notMatch(sql, /secret/);
});

t.test("the promise is on disk before the answer, and is kept over a kill", async (t) => {
  const sidecar = await started(t);
  await sidecar.bootstrap();
  t.match(await sidecar.client.recruit({ term: term(7), coordinator: o1, reason: "test" }), {
    ok: true,
    position: { term: 1, lsn: 0x1000n },
    status: { promisedTerm: 7, promisedTo: "o1", fenceTerm: 7 },
  });
  t.match(JSON.parse(sidecar.file("state/promise.json")), { data: { term: 7, coordinator: "o1" } });
  t.match(await sidecar.client.recruit({ term: term(7), coordinator: o2, reason: "" }), {
    refusal: { code: "promised_to_another", promisedTerm: 7, promisedTo: "o1" },
  });
  await sidecar.end("SIGKILL");
  await sidecar.start();
  t.match(await sidecar.client.recruit({ term: term(6), coordinator: o2, reason: "" }), {
    refusal: { code: "stale_term", promisedTerm: 7 },
  });
});

t.test(
  "a killed Postgres: watchers hear of it at once, it comes back fenced under the promise",
  async (t) => {
    const sidecar = await leader(t);
    const { seen } = await sidecar.watch(t);
    await poll(() => seen.length > 0, { what: "the first status", timeoutMs: 5_000 });
    const { pid } = await sidecar.client.getStatus();
    const killedAtMs = performance.now();
    process.kill(pid ?? 0, "SIGKILL");
    const crash = await poll(() => seen.find(({ status }) => status.postgres === "crashed"), {
      what: "the news of the crash",
      timeoutMs: 30_000,
      intervalMs: 1,
    });
    t.match(crash.status, { term: 2, wasLeader: true, pid: null, state: null, lastExit: /SIGKILL/ });
    t.comment(`the watcher knew after ${(crash.atMs - killedAtMs).toFixed(1)} ms`);
    t.ok(crash.atMs - killedAtMs < 1_000);
    const back = await sidecar.until("running again", (status) => status.postgres === "running");
    t.match(back, { state: "fenced", fenceTerm: 2, term: 2, wasLeader: true, inRecovery: true });
    t.not(back.pid, pid);
  },
);

t.test("a killed sidecar leaves Postgres alone; the next one adopts it and hears of its death", async (t) => {
  const sidecar = await leader(t);
  const before = await sidecar.client.getStatus();
  await sidecar.end("SIGKILL");
  process.kill(before.pid ?? 0, 0);
  await sidecar.start();
  // Not even for a moment does it look as if the leader were down.
  const adopted = await sidecar.client.getStatus();
  t.match(adopted, { postgres: "running", state: "leader", wasLeader: false });
  t.equal(adopted.pid, before.pid);
  // It still counts as the leader that it was told to be.
  t.match(await sidecar.client.quiesce({ term: term(2), on: true, timeoutMs: 1_000 }), {
    ok: true,
    lsn: 0x3000n,
  });
  const { seen } = await sidecar.watch(t);
  process.kill(before.pid ?? 0, "SIGKILL");
  await poll(() => seen.some(({ status }) => status.postgres === "crashed" && status.wasLeader), {
    what: "the news of the crash",
    timeoutMs: 30_000,
  });
  await sidecar.until("running again", (status) => status.state === "fenced" && status.pid !== before.pid);
});

t.test("recruited while Postgres is down: it is started first", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  process.kill(pid ?? 0, "SIGKILL");
  t.match(await sidecar.client.recruit({ term: term(3), coordinator: o2, reason: "leader died" }), {
    ok: true,
    position: { term: 2, lsn: 0x2000n },
    inRecovery: true,
    status: { state: "fenced", fenceTerm: 3 },
  });
});

t.test("an ex-leader follows by a restart, and follows again after a crash", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", port: 5_999, member: true };
  t.match(await sidecar.client.follow({ term: term(3), coordinator: o2, ...peer }), {
    ok: true,
    done: "following",
  });
  const following = await sidecar.client.getStatus();
  t.match(following, { state: "follower", term: 3, leader: "n2", promisedTerm: 3, wasLeader: false });
  t.not(following.pid, pid);
  process.kill(following.pid ?? 0, "SIGKILL");
  t.match(
    await sidecar.until(
      "following again",
      (status) => status.state === "follower" && status.pid !== following.pid,
    ),
    { term: 3, leader: "n2" },
  );
  // A newer promise forbids it.
  await sidecar.client.recruit({ term: term(4), coordinator: o1, reason: "" });
  const recruited = await sidecar.client.getStatus();
  process.kill(recruited.pid ?? 0, "SIGKILL");
  t.match(
    await sidecar.until("back", (status) => status.postgres === "running" && status.pid !== recruited.pid),
    { state: "fenced", fenceTerm: 4, leader: null },
  );
});

t.test("two coordinators that send an ex-leader the same way cause one restart", async (t) => {
  const sidecar = await leader(t);
  const { seen } = await sidecar.watch(t);
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", port: 5_999, member: true };
  const both = await Promise.all(
    [o1, o2].map((coordinator) => sidecar.client.follow({ term: term(3), coordinator, ...peer })),
  );
  t.match(both, [{ ok: true }, { ok: true }]);
  const pids = new Set(seen.map(({ status }) => status.pid).filter((pid) => pid !== null));
  t.equal(pids.size, 2, "the leader's and one more");
});

t.test("a recruited leader that is to lead again becomes a follower in between", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  await sidecar.client.recruit({ term: term(3), coordinator: o2, reason: "" });
  t.match(await sidecar.client.elect({ term: term(3), coordinator: o2, rule: "n1", joint: [], ruleset }), {
    ok: true,
    position: { term: 3 },
  });
  const again = await sidecar.until("leader", (status) => status.state === "leader");
  t.match(again, { term: 3 });
  t.not(again.pid, pid);
});

t.test("a node without data copies it, with progress, and then follows", async (t) => {
  const sidecar = await started(t);
  const { seen } = await sidecar.watch(t);
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", port: 5_999, member: false };
  t.match(await sidecar.client.follow({ term: term(3), coordinator: o1, ...peer }), {
    ok: true,
    done: "cloning",
  });
  const status = await sidecar.until("following", (each) => each.state === "follower");
  t.match(status, { term: 3, leader: "n2", clone: null, promisedTerm: 3 });
  const cloning = seen
    .filter(({ status: each }) => each.postgres === "cloning")
    .map(({ status: each }) => each.clone);
  t.match(cloning.at(-1), { from: "n2", doneBytes: 4096 * 1024, totalBytes: 4096 * 1024 });
  t.match(sidecar.file("data/quorate.conf"), /quorate.node_id = 'n1'/);
});

t.test("a node that loses its data while it runs says so, and is copied anew", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  rmSync(join(sidecar.data, "PG_VERSION"));
  process.kill(pid ?? 0, "SIGKILL");
  await sidecar.until("absent", (status) => status.postgres === "absent");
  t.match(await sidecar.client.recruit({ term: term(3), coordinator: o2, reason: "" }), {
    ok: false,
    refusal: { code: "no_data" },
  });
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", port: 5_999, member: true };
  await sidecar.client.follow({ term: term(4), coordinator: o2, ...peer });
  await sidecar.until("following", (status) => status.state === "follower" && status.leader === "n2");
  t.ok(existsSync(`${sidecar.data}.lost`), "the remains are kept");
});

t.test("a copy that fails leaves nothing and can be asked for again", async (t) => {
  const sidecar = await started(t);
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", member: false };
  await sidecar.client.follow({ term: term(3), coordinator: o1, ...peer, port: 1 });
  await sidecar.until("absent again", (status) => status.postgres === "absent");
  await sidecar.client.follow({ term: term(3), coordinator: o1, ...peer, port: 5_999 });
  await sidecar.until("following", (status) => status.state === "follower");
});

t.test("what an operator stopped stays down, over a restart of the sidecar too", async (t) => {
  const sidecar = await leader(t);
  t.match(await sidecar.client.control({ action: "stop" }), {
    ok: true,
    status: { postgres: "stopped", operatorStopped: true, wasLeader: true },
  });
  t.match(await sidecar.client.recruit({ term: term(3), coordinator: o1, reason: "" }), {
    refusal: { code: "postgres_down" },
  });
  await sidecar.end("SIGTERM");
  await sidecar.start();
  t.match(await sidecar.client.getStatus(), { postgres: "stopped", operatorStopped: true });
  t.match(await sidecar.client.control({ action: "start" }), {
    ok: true,
    status: { postgres: "running", operatorStopped: false },
  });
  t.match(await sidecar.client.control({ action: "restart" }), { ok: true, status: { state: "fenced" } });
  const { pid } = await sidecar.client.getStatus();
  t.match(await sidecar.client.control({ action: "kill" }), { ok: true });
  await sidecar.until("back after a kill", (status) => status.postgres === "running" && status.pid !== pid);
});

t.test("a Postgres that dies again and again is reported as failed and still tried", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  sidecar.writeData("fake-broken", "");
  process.kill(pid ?? 0, "SIGKILL");
  t.match(await sidecar.until("failed", (status) => status.postgres === "failed"), {
    lastExit: "exit code 1",
  });
});

t.test("data that can't be started is put aside when that is asked for, and other data never", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  t.match(await sidecar.client.control({ action: "discard" }), { refusal: { code: "not_failed" } });
  sidecar.writeData("fake-broken", "");
  process.kill(pid ?? 0, "SIGKILL");
  await sidecar.until("failed", (status) => status.postgres === "failed");
  await poll(async () => (await sidecar.client.control({ action: "discard" })).ok, {
    what: "a moment between two attempts to start it",
    timeoutMs: 30_000,
  });
  t.match(await sidecar.client.getStatus(), { postgres: "absent" });
  t.ok(existsSync(join(sidecar.root, "data.lost", "fake-broken")), "it is kept");
  t.notOk(existsSync(sidecar.data));
  // It is a node like any other without data.
  t.match(await sidecar.client.getStatus(), { promisedTerm: 2 });
});

t.test("data that lacks log is put aside once, though several ask for it", async (t) => {
  const sidecar = await leader(t);
  t.match(await sidecar.client.control({ action: "remake" }), { refusal: { code: "not_outdated" } });
  const peer = { leader: nodeId("n2"), host: "127.0.0.1", port: 5_999, member: true };
  await sidecar.client.recruit({ term: term(3), coordinator: o1, reason: "" });
  await sidecar.client.follow({ term: term(3), coordinator: o1, ...peer });
  await sidecar.until("following", (status) => status.state === "follower");
  sidecar.writeData("fake-streams", "");
  await sidecar.until("streaming", (status) => status.receiver?.state === "streaming");
  t.match(await sidecar.client.control({ action: "remake" }), { refusal: { code: "not_outdated" } });
  rmSync(join(sidecar.data, "fake-streams"));
  await sidecar.until("cut off", (status) => status.receiver === null);
  sidecar.writeData("mark", "this data");
  const remake = () => sidecar.client.control({ action: "remake" });
  const answers = await Promise.all([remake(), remake(), remake()]);
  t.equal(answers.filter(({ ok }) => ok).length, 1, "one of them did it");
  t.ok(existsSync(join(sidecar.root, "data.outdated", "mark")), "what the first has put aside is kept");
  t.match(await sidecar.client.getStatus(), { postgres: "absent", promisedTerm: 3 });
});

t.test("SIGTERM stops Postgres and says goodbye; with onTerminate=leave it goes on", async (t) => {
  const sidecar = await leader(t);
  const { pid } = await sidecar.client.getStatus();
  const { seen, ended } = await sidecar.watch(t);
  t.equal(await sidecar.end("SIGTERM"), 0);
  t.equal((await ended).reason, "closed");
  t.match(seen.at(-1)?.status, { postgres: "stopped", wasLeader: true });
  t.throws(() => process.kill(pid ?? 0, 0));
  t.notOk(existsSync(join(sidecar.root, "sidecar.pid")));

  sidecar.configure({ onTerminate: "leave" });
  await sidecar.start();
  const running = await sidecar.until("running", (status) => status.postgres === "running");
  t.equal(await sidecar.end("SIGINT"), 0);
  process.kill(running.pid ?? 0, 0);
});

t.test("health, status and metrics over HTTP", async (t) => {
  const sidecar = await leader(t);
  const get = async (path: string): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${sidecar.ports.http}${path}`);
    return `${response.status} ${await response.text()}`;
  };
  t.match(await get("/health"), /^200 \{"sidecar":"ok","postgres":"running","state":"leader"\}/);
  t.match(JSON.parse((await get("/status")).slice(4)), {
    node: "n1",
    state: "leader",
    position: { lsn: "0/2000" },
  });
  const metrics = await get("/metrics");
  t.match(metrics, /^quorate_leader\{.*\} 1$/m);
  t.match(metrics, /^quorate_requests_total\{request="elect",code="ok".*\} 1$/m);
  t.match(await get("/nothing"), /^404/);
});

t.test("with a token nobody else is answered, over gRPC and HTTP", async (t) => {
  const sidecar = await SidecarUnderTest.make(t);
  const file = join(sidecar.root, "api.token");
  writeFileSync(file, "sesame\n", { mode: 0o600 });
  sidecar.configure({ insecure: false, tokenFile: "api.token" });
  sidecar.spawn();
  const health = async (): Promise<boolean> =>
    (await fetch(`http://127.0.0.1:${sidecar.ports.http}/health`).catch(() => undefined))?.ok === true;
  await poll(health, { what: "the sidecar to listen", timeoutMs: 60_000 });
  const denied = { failure: "denied", code: "rpc_denied" };
  const address = `127.0.0.1:${sidecar.ports.grpc}`;
  const insecure = { credentials: clientCredentials(undefined) };
  const wrong = connectSidecar(address, { ...insecure, token: () => "open" });
  const right = connectSidecar(address, { ...insecure, token: () => "sesame" });
  t.teardown(() => {
    wrong.close();
    right.close();
  });
  await t.rejects(sidecar.client.getStatus(), denied, "without one");
  await t.rejects(wrong.recruit({ term: term(2), coordinator: o1, reason: "mine" }), denied, "with another");
  const end = await new Promise((resolve) =>
    wrong.watch(
      { watcher: "test", intervalMs: 1_000, silenceMs: 30_000 },
      { status: () => {}, end: resolve },
    ),
  );
  t.match(end, { reason: "protocol", message: /token/ });
  t.equal((await right.getStatus()).node, "n1");
  t.equal((await fetch(`http://127.0.0.1:${sidecar.ports.http}/metrics`)).status, 401);
  const headers = { authorization: "Bearer sesame" };
  t.equal((await fetch(`http://127.0.0.1:${sidecar.ports.http}/metrics`, { headers })).status, 200);
});

t.test("a wrong configuration or environment: exit code 2 and what to do", async (t) => {
  const fails = async (sidecar: SidecarUnderTest, message: RegExp): Promise<void> => {
    const child = sidecar.spawn();
    let output = "";
    child.stderr?.on("data", (chunk) => {
      output += String(chunk);
    });
    const [code] = await once(child, "close");
    t.equal(code, 2);
    t.match(output, message);
  };
  const sidecar = await SidecarUnderTest.make(t, { postgres: { binDir: "nowhere" } });
  await fails(sidecar, /nowhere\/postgres is not an executable: set postgres\.binDir/);
  sidecar.configure({ node: { id: "N1" }, extra: 1 });
  await fails(sidecar, /node\.id: must be a lower-case letter/);
  sidecar.configure({ postgres: { binDir: "bin", settings: { full_page_writes: false } } });
  await fails(sidecar, /full_page_writes can't be changed/);
  sidecar.configure({ insecure: false });
  await fails(sidecar, /would obey anybody: give it the cluster's token/);
  sidecar.configure({ insecure: false, tokenFile: "nowhere.token" });
  await fails(sidecar, /the file that tokenFile names/);
  sidecar.configure({ insecure: false, tokenFile: "t", host: "192.0.2.1" });
  await fails(sidecar, /in the clear/);
  sidecar.configure({ dir: "x".repeat(100) });
  await fails(sidecar, /choose a shorter directory/);
  sidecar.configure({});
  await sidecar.start();
  const second = await SidecarUnderTest.make(t);
  second.configure({ dir: sidecar.root });
  await fails(second, /another sidecar/);
});

t.test("a node that has forgotten its promise takes no part", async (t) => {
  const sidecar = await started(t);
  await sidecar.bootstrap();
  await sidecar.end("SIGTERM");
  const { rmSync } = await import("node:fs");
  rmSync(join(sidecar.root, "state", "promise.json"));
  const child = sidecar.spawn();
  const [code] = await once(child, "close");
  t.equal(code, 2);
});
