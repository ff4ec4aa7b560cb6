/** The control socket, command by command, on a server without a sidecar. */
import { stat } from "node:fs/promises";
import { poll } from "@quorate/common";
import { test } from "tap";
import { type Cluster, expectOk, makeCluster } from "../lib/cluster.ts";

const maxLine = 1024 * 1024;
const ruleset = { version: 1, text: '{"name":"ein Blatt — und ein \\"zweites\\""}' };

async function withCluster(t: { teardown: (fn: () => Promise<void>) => void }, nodes = 1): Promise<Cluster> {
  const cluster = await makeCluster({ nodes });
  t.teardown(() => cluster.dispose());
  for (const server of cluster.servers) await server.start();
  return cluster;
}

test("what is no request is answered with bad_request, and the next request is served", async (t) => {
  const cluster = await withCluster(t);
  const control = await cluster.node("n1").control();
  const garbage: [string, string | Buffer][] = [
    ["an empty line", ""],
    ["no JSON", "hello"],
    ["half an object", '{"id":1,'],
    ["an array", "[1,2]"],
    ["a number", "17"],
    ["no id", '{"cmd":"status"}'],
    ["an id that is an object", '{"id":{},"cmd":"status"}'],
    ["a long id", JSON.stringify({ id: "x".repeat(1000), cmd: "status" })],
    ["not UTF-8", Buffer.from('{"id":1,"cmd":"\xff\xfe"}', "latin1")],
    ["a zero byte", '{"id":1,"cmd":"sta\0tus"}'],
    ["an escaped zero byte", '{"id":1,"cmd":"\\u0000"}'],
    ["deep nesting", `${"[".repeat(200_000)}`],
    ["a huge number as term", `{"id":1,"cmd":"fence","term":${"9".repeat(5000)}}`],
  ];
  for (const [what, bytes] of garbage) {
    control.raw(bytes);
    control.raw("\n");
    const response = await control.nextResponse();
    t.match(response, { ok: false, code: "bad_request" }, what);
    t.ok(response.message, `${what}: with a message`);
  }
  t.match(await control.request({ cmd: "status" }), { ok: true, status: { node: "n1" } });
});

test("a thousand damaged requests: each is answered, none ends the worker or grants anything by accident", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  const worker = server.child(/quorate control/);
  const control = await server.control();
  let seed = 20261121;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed >>> 8) % below;
  };
  // Nothing in here would succeed as it is: the term is stale.
  t.ok((await control.request({ cmd: "fence", term: 4_000_000_000 })).ok);
  const conninfo = "host=/nowhere";
  const originals = [
    { id: 1, cmd: "fence", term: 7 },
    { id: 1, cmd: "follow", term: 7, leader: "n2", conninfo },
    { id: 1, cmd: "fetch", term: 7, from: "n2", conninfo, target: { term: 1, lsn: "0/1000" } },
    { id: 1, cmd: "elect", term: 7, rule: "2(n1,1(n2,n3))", joint: ["n1"], ruleset },
    { id: 1, cmd: "ruleset", term: 7, version: 2, rule: "2(n1,n2)", text: "{}" },
    { id: 1, cmd: "quiesce", on: true, timeoutMs: 10 },
    { id: 1, cmd: "status" },
  ].map((original) => Buffer.from(JSON.stringify(original)));
  const codes = new Map<string, number>();
  for (let i = 0; i < 1000; i++) {
    const bytes = Buffer.from(originals[random(originals.length)] ?? "");
    const anyByte = random(4) === 0;
    for (let n = 1 + random(2); n > 0; n--)
      bytes[random(bytes.length)] = anyByte ? random(256) : 0x20 + random(0x5f);
    const cut = bytes.subarray(0, random(8) === 0 ? random(bytes.length) : bytes.length);
    const line = cut.filter((byte) => byte !== 0x0a);
    control.raw(Buffer.concat([line, Buffer.from("\n")]));
    const { ok, code } = await control.nextResponse();
    const kind = code ?? (ok ? "ok" : "?");
    codes.set(kind, (codes.get(kind) ?? 0) + 1);
  }
  t.comment(Object.fromEntries(codes));
  t.notOk(codes.has("internal"), "no internal error");
  t.equal(server.child(/quorate control/), worker, "the same worker all the time");
  t.match(await server.status(), { state: "fenced", term: 0, fenceTerm: 4_000_000_000, quiesced: false });
});

test("fields that are missing or wrong are refused, each with its name", async (t) => {
  const cluster = await withCluster(t);
  const control = await cluster.node("n1").control();
  const good = { cmd: "elect", term: 2, rule: "n1", ruleset };
  const wrong: [string, { [key: string]: unknown }, RegExp][] = [
    ["no command", {}, /"cmd"/],
    ["an unknown command", { cmd: "promote" }, /unknown command/],
    ["no term", { cmd: "fence" }, /"term"/],
    ["term 0", { cmd: "fence", term: 0 }, /"term"/],
    ["half a term", { cmd: "fence", term: 1.5 }, /"term"/],
    ["a term as text", { cmd: "fence", term: "7" }, /"term"/],
    ["a negative term", { cmd: "fence", term: -1 }, /"term"/],
    ["a term over 32 bits", { cmd: "fence", term: 2 ** 32 }, /"term"/],
    ["a leader that is no node id", { cmd: "follow", term: 2, leader: "N 1", conninfo: "" }, /"leader"/],
    ["no conninfo", { cmd: "follow", term: 2, leader: "n2" }, /"conninfo"/],
    ["a long conninfo", { cmd: "follow", term: 2, leader: "n2", conninfo: "x".repeat(2000) }, /"conninfo"/],
    ["no target", { cmd: "fetch", term: 2, from: "n2", conninfo: "" }, /"target"/],
    [
      "a target that is no LSN",
      { cmd: "fetch", term: 2, from: "n2", conninfo: "", target: { term: 1, lsn: "x" } },
      /"lsn"/,
    ],
    ["no rule", { ...good, rule: undefined }, /"rule"/],
    ["a bad rule", { ...good, rule: "3(n1,n2)" }, /"rule".*threshold 3 of 2/],
    ["a rule with a space", { ...good, rule: "2(n1, n2)" }, /"rule".*character 5/],
    ["joint that is no array", { ...good, joint: "n1" }, /"joint"/],
    ["joint of numbers", { ...good, joint: [1] }, /"joint"/],
    ["too many joint rules", { ...good, joint: Array.from({ length: 9 }, () => "n1") }, /"joint"/],
    ["no ruleset", { ...good, ruleset: undefined }, /"ruleset"/],
    ["ruleset version 0", { ...good, ruleset: { version: 0, text: "" } }, /"version"/],
    ["a long text", { ...good, ruleset: { version: 1, text: "x".repeat(65_537) } }, /"text"/],
    ["quiesce without on", { cmd: "quiesce" }, /"on"/],
    ["an interval of 1 ms", { cmd: "watch", intervalMs: 1 }, /"intervalMs"/],
  ];
  for (const [what, body, message] of wrong)
    t.match(await control.request(body), { ok: false, code: "bad_request", message }, what);
  t.match(await control.request({ cmd: "status" }), { status: { fenceTerm: 0, state: /fenced|starting/ } });
});

test("a line of 1 MiB is read, a longer one ends the connection, others go on", async (t) => {
  const cluster = await withCluster(t);
  const other = await cluster.node("n1").control();
  const control = await cluster.node("n1").control();
  const padded = (bytes: number) => {
    const line = JSON.stringify({ id: "pad", cmd: "status", pad: "" });
    return line.replace('"pad":""', `"pad":"${"x".repeat(bytes - line.length)}"`);
  };
  control.raw(`${padded(maxLine)}\n`);
  t.match(await control.nextResponse(), { id: "pad", ok: true });
  control.raw(padded(maxLine + 100_000));
  t.match(await control.nextResponse(), { id: null, ok: false, code: "bad_request", message: /at most/ });
  t.ok(await control.closed(), "closed");
  t.match(await other.request({ cmd: "status" }), { ok: true });
});

test("requests in pieces and several in one packet", async (t) => {
  const cluster = await withCluster(t);
  const control = await cluster.node("n1").control();
  for (const piece of ['{"id":"a"', ',"cmd":"sta', 'tus"}', '\n{"id":"b","cmd":"status"}\n{"id":"c",'])
    control.raw(piece);
  t.match(await control.nextResponse(), { id: "a", ok: true });
  t.match(await control.nextResponse(), { id: "b", ok: true });
  control.raw('"cmd":"status"}\n');
  t.match(await control.nextResponse(), { id: "c", ok: true });
});

test("more clients than allowed are turned away, and there is room when one goes", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  const controls = [];
  for (let i = 0; i < 16; i++) controls.push(await server.control());
  for (const control of controls) t.ok((await control.request({ cmd: "status" })).ok);
  const refused = await server.control();
  t.ok(await refused.closed(), "the 17th is closed");
  controls[3]?.close();
  const response = await server.ask({ cmd: "status" }).catch(() => server.ask({ cmd: "status" }));
  t.ok(response.ok);
});

test("the socket is for the owner only, and a stale one is replaced", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  t.equal((await stat(server.controlSocket)).mode & 0o777, 0o600);
  // A crash of the control worker is a crash of the server, which doesn't restart by itself.
  process.kill(server.child(/quorate control/), "SIGKILL");
  await server.exited();
  t.ok((await stat(server.controlSocket)).isSocket(), "left behind by the crash");
  await server.start();
  t.match(await server.status(), { node: "n1" });
  await server.stop();
  await t.rejects(stat(server.controlSocket), { code: "ENOENT" }, "removed at shutdown");
});

test("fence: idempotent, only rises, reports the position; stale terms are refused", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  const control = await server.control();
  const first = await control.request({ cmd: "fence", term: 7 });
  t.match(first, {
    ok: true,
    position: { term: 1, lsn: /^0\// },
    ruleset: null,
    tailRulesets: [],
    status: { state: "fenced", fenceTerm: 7, term: 0 },
  });
  t.same((await control.request({ cmd: "fence", term: 7 })).position, first.position);
  const conninfo = "host=/nowhere";
  for (const body of [
    { cmd: "fence", term: 6 },
    { cmd: "follow", term: 6, leader: "n2", conninfo },
    { cmd: "fetch", term: 6, from: "n2", conninfo, target: { term: 1, lsn: "1/0" } },
    { cmd: "elect", term: 6, rule: "n1", ruleset },
    { cmd: "ruleset", term: 6, version: 2, rule: "n1", text: "" },
  ])
    t.match(
      await control.request(body),
      {
        ok: false,
        code: "stale_term",
        message: "term 6 is below term 7, which this node already obeys",
      },
      body.cmd,
    );
  await server.stop();
  await server.start();
  t.match(
    await server.status(),
    { fenceTerm: 0, state: /fenced|starting/ },
    "the sidecar remembers, not Postgres",
  );
});

test("elect, leader, ruleset, restart: from a fenced node to a leader and back", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  const control = await server.control();
  t.match(await control.request({ cmd: "ruleset", term: 2, version: 1, rule: "n1", text: "" }), {
    code: "wrong_state",
  });
  t.match(await control.request({ cmd: "quiesce", on: true }), { code: "wrong_state" });
  const elected = await control.request({ cmd: "elect", term: 2, rule: "n1", ruleset });
  t.match(elected, { ok: true, position: { term: 2 } });
  await server.untilStatus("leads", ({ state }) => state === "leader");
  t.match(await server.untilStatus("has its ruleset", (status) => status.ruleset !== null), {
    term: 2,
    leader: "n1",
    rule: "n1",
    joint: [],
    inRecovery: false,
    ruleset: { version: 1, text: ruleset.text },
  });
  t.same(
    (await control.request({ cmd: "elect", term: 2, rule: "n1", ruleset })).position,
    elected.position,
    "asked again, the same answer",
  );
  t.match(await control.request({ cmd: "elect", term: 2, rule: "1(n1)", ruleset }), { code: "wrong_state" });
  await server.sql("create table t (a int); insert into t values (1)");

  const change = { cmd: "ruleset", term: 2, version: 2, rule: "1(n1,n2)", text: "zwei" };
  const changed = await control.request(change);
  t.match(changed, { ok: true, lsn: /^0\// });
  t.match(await server.status(), { rule: "1(n1,n2)", joint: [], ruleset: { version: 2, text: "zwei" } });
  t.same((await control.request(change)).lsn, changed.lsn, "idempotent");
  t.match(await control.request({ ...change, version: 1 }), { code: "bad_request", message: /version 1/ });
  t.match(await control.request({ ...change, term: 3, version: 3 }), { code: "wrong_state" });

  t.match(
    await control.request({ cmd: "fence", term: 5 }),
    { ok: true, position: { term: 2 }, status: { state: "fenced", inRecovery: false } },
    "a fenced leader",
  );
  for (const body of [
    { cmd: "elect", term: 5, rule: "n1", ruleset },
    { cmd: "follow", term: 5, leader: "n2", conninfo: "host=/nowhere" },
  ])
    t.match(await control.request(body), { code: "restart_required" }, body.cmd);

  await server.stop("immediate");
  await server.start();
  t.match(
    await server.status(),
    { state: /fenced|starting/, ruleset: { version: 2, text: "zwei" } },
    "a restarted leader is a fenced follower that knows its rules",
  );
  await cluster.lead("n1", 6, "n1");
  t.equal(await server.value("select count(*) from t"), "1");
});

test("watch: an event at once, at each change, and at the interval", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  const control = await server.control();
  await server.untilStatus("is consistent", ({ state }) => state === "fenced");
  t.ok((await control.request({ cmd: "watch", intervalMs: 60_000 })).ok);
  await control.nextEvent(({ status }) => status.state === "fenced");
  const idle = control.nextEvent(() => true, 1500);
  await t.rejects(idle, /in vain/, "nothing changes, nothing is sent");
  await server.ask({ cmd: "fence", term: 3 });
  await control.nextEvent(({ status }) => status.fenceTerm === 3, 2000);
  await server.ask({ cmd: "elect", term: 3, rule: "n1", ruleset });
  await control.nextEvent(({ status }) => status.state === "leader" && status.ruleset?.version === 1, 5000);

  const often = await server.control();
  await often.request({ cmd: "watch", intervalMs: 50 });
  const startMs = performance.now();
  for (let i = 0; i < 10; i++) await often.nextEvent();
  t.ok(performance.now() - startMs < 5000, "ten events in well below 5 s");

  await server.stop();
  await control.nextEvent(({ status }) => status.state === "stopping");
  t.ok(await control.closed(), "the end of the connection tells of the end of the server");
});

test("an operation is superseded by a higher term, and forgotten with its client", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  const control = await server.control();
  const fetch = {
    cmd: "fetch",
    term: 4,
    from: "n2",
    conninfo: "host=/nowhere",
    target: { term: 1, lsn: "FF/0" },
  };
  const waiting = control.request(fetch);
  await server.untilStatus("fetches", ({ state }) => state === "fetching");
  t.match(await server.ask({ cmd: "fence", term: 5 }), { ok: true });
  t.match(await waiting, { ok: false, code: "superseded", message: /term 5/ });

  t.match(await control.request({ ...fetch, term: 6, timeoutMs: 200 }), { ok: false, code: "timeout" });

  const gone = await server.control();
  gone.raw(`${JSON.stringify({ id: 1, ...fetch, term: 6 })}\n`);
  await server.untilStatus("fetches", ({ state }) => state === "fetching");
  gone.close();
  t.match(await server.ask({ cmd: "fence", term: 7 }), { ok: true, status: { state: "fenced" } });
});

test("quiesce: who waits when the server is fenced hears at once that nothing was begun", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  await cluster.lead("n1", 2, "n1");
  await server.sql("create table t (a int)");
  const control = await server.control();
  expectOk(await control.request({ cmd: "quiesce", on: true, timeoutMs: 60_000 }));
  const held = await server.connect();
  held.on("error", () => undefined);
  const refused = t.rejects(held.query("insert into t values (1)"), {
    severity: "FATAL",
    code: "57P01",
    detail: /not begun/,
  });
  const admin = await server.connect("-cquorate.control=on");
  await poll(
    async () => {
      const waiting = "select 1 from pg_stat_activity where wait_event = 'QuorateQuiesce'";
      return (await admin.query(waiting)).rows.length === 1;
    },
    { what: "the insert to be held", timeoutMs: 10_000 },
  );
  const beganMs = performance.now();
  expectOk(await control.request({ cmd: "fence", term: 3 }));
  await refused;
  t.ok(performance.now() - beganMs < 10_000, "not only when the time of the quiesce is over");
});

test("quiesce: transactions in flight end, new ones wait and are not lost", async (t) => {
  const cluster = await withCluster(t);
  const server = cluster.node("n1");
  await cluster.lead("n1", 2, "n1");
  await server.sql("create table t (a int)");
  const control = await server.control();

  const inFlight = await server.connect();
  await inFlight.query("begin");
  await inFlight.query("insert into t values (1)");
  t.match(await control.request({ cmd: "quiesce", on: true, timeoutMs: 200 }), {
    ok: false,
    code: "timeout",
    message: /1 transactions/,
  });
  t.match(await server.status(), { quiesced: false });

  const answer = control.request({ cmd: "quiesce", on: true, timeoutMs: 20_000 });
  await server.untilStatus("is quiesced", ({ quiesced }) => quiesced);
  const held = await server.connect();
  const heldInsert = held.query("insert into t values (2)");
  const heldBegin = await server.connect();
  const begin = heldBegin.query("begin");
  const control2 = await server.connect("-cquorate.control=on");
  t.same(
    (await control2.query("select count(*)::int as n from t")).rows,
    [{ n: 0 }],
    "the sidecar's session goes on",
  );
  await inFlight.query("insert into t values (3)");
  await inFlight.query("commit");
  await control2.end();
  t.match(await answer, { ok: true, lsn: /^0\// });

  const cancelled = await server.connect("-cstatement_timeout=100");
  await t.rejects(cancelled.query("select 1"), /statement timeout/, "who waits can be cancelled");

  const admin = await server.connect("-cquorate.control=on");
  t.same(
    (await admin.query("select count(*)::int as n from pg_stat_activity where wait_event = 'QuorateQuiesce'"))
      .rows,
    [{ n: 2 }],
  );
  t.same((await admin.query("select count(*)::int as n from t")).rows, [{ n: 2 }]);
  expectOk(await control.request({ cmd: "quiesce", on: false }));
  await heldInsert;
  await begin;
  await heldBegin.query("commit");
  t.equal(await server.value("select count(*) from t"), "3");

  expectOk(await control.request({ cmd: "quiesce", on: true }));
  const heldAgain = held.query("insert into t values (4)");
  control.close();
  await heldAgain;
  t.match(await server.status(), { quiesced: false }, "ends with the connection that asked for it");
});
