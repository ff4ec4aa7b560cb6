/**
 * Peers that talk nonsense (message q, WAL, replies: truncated, repeated, absurd, of an old term) and a damaged state
 * file: refused, never a crash, and nothing is committed or shown by it. (The control channel: control.test.ts.)
 */
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { poll } from "@quorate/common";
import { parseLsn } from "@quorate/consensus";
import { type Test, test } from "tap";
import { amcheck, contentsOf } from "../../tests/lib/contents.ts";
import { expectOk, makeCluster, type Server } from "../lib/cluster.ts";
import { fakeReceiver, fakeWalsender, int64, noise } from "../lib/fake-peer.ts";
import { makeRandom, type Random } from "../lib/random.ts";
import { freezeReceiver, threeNodes, untilWaiting } from "../lib/three-nodes.ts";

const now = 800_000_000_000_000n;
const crash = /PANIC|TRAP|terminated by signal/;

function anyLsn(random: Random, near: bigint): bigint {
  return random.pick([
    0n,
    1n,
    near - 1n,
    near,
    near + 8n,
    near + 100_000n,
    2n ** 63n - 1n,
    -1n,
    -(2n ** 63n),
  ]);
}

/** One message of a walsender: right, wrong in a detail, or mere noise. */
function anySenderMessage(random: Random, start: bigint): Buffer {
  const q = Buffer.concat([
    Buffer.from("q"),
    int64(anyLsn(random, start)),
    int64(anyLsn(random, now)),
    int64(anyLsn(random, 1000n)),
  ]);
  const w = Buffer.concat([
    Buffer.from("w"),
    int64(random.chance(2) ? start : anyLsn(random, start)),
    int64(anyLsn(random, start)),
    int64(now),
    noise(random.below(1e6), random.below(300)),
  ]);
  const k = Buffer.concat([Buffer.from("k"), int64(anyLsn(random, start)), int64(now), Buffer.from([1])]);
  const chosen = random.pick([q, q, q, w, k, noise(random.below(1e6), random.below(60))]);
  return random.chance(3) ? chosen.subarray(0, random.below(chosen.length + 1)) : chosen;
}

async function noCrash(t: Test, server: Server): Promise<void> {
  t.ok(server.isRunning(), `${server.id} runs`);
  t.notMatch(await server.log(), crash);
  t.match(await server.status(), { node: server.id });
}

test("a walsender that talks nonsense", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  await n1.sql("create extension amcheck; insert into t select generate_series(1, 1000)");
  for (const each of [n2, n3]) await each.untilValue("select count(*) from t", "1000");
  const term = 5;
  const { position } = expectOk(await n3.ask({ cmd: "fence", term }));
  const lsn = position?.lsn ?? "0/0";
  const own = await readFile(path.join(n3.data, "pg_wal/00000002.history"), "utf8");
  const random = makeRandom(20261121);
  const fake = await fakeWalsender({
    socketPath: path.join(cluster.dir, ".s.PGSQL.5432"),
    systemIdentifier: String(
      ((await n3.status()) as unknown as { systemIdentifier: string }).systemIdentifier,
    ),
    timeline: term,
    lsn: "F/0", // there is always more to come
    history: `${own}2\t${lsn}\tnonsense\n`,
    say: (n, start) =>
      // every single one of the first streams is a short q
      n <= 25
        ? [Buffer.concat([Buffer.from("q"), Buffer.alloc(n === 25 ? 32 : n - 1)])]
        : Array.from({ length: 1 + random.below(6) }, () => anySenderMessage(random, start)),
  });
  t.teardown(() => fake.close());
  const conninfo = `host=${cluster.dir} port=5432 user=postgres application_name=n3 options=-cquorate.member=on`;
  expectOk(await n3.ask({ cmd: "follow", term, leader: "n1", conninfo }));
  await poll(() => fake.streams() >= 60, { what: "60 streams", timeoutMs: 60_000, intervalMs: 50 });
  await noCrash(t, n3);
  t.equal(await n3.value("select count(*) from t"), "1000", "shows what it has shown");

  // the true leader has been of term 2 all the time, now it's another one's turn
  for (const each of [n1, n2]) expectOk(await each.ask({ cmd: "fence", term: 9 }));
  expectOk(await n3.ask({ cmd: "fence", term: 9 }));
  fake.close();
  await cluster.lead("n2", 9, "2(n1,n2,n3)", ["n3"]);
  await n2.sql("insert into t values (0)");
  await n3.untilValue("select count(*) from t", "1001");
  const target = (server: Server) => ({
    host: server.socketDirectory,
    port: 5432,
    user: "postgres",
    database: "postgres",
  });
  t.same(await contentsOf(target(n3)), await contentsOf(target(n2)));
  t.same(await amcheck(target(n3)), []);
  await noCrash(t, n3);
});

test("a walsender of an old term", async (t) => {
  const cluster = await threeNodes(t);
  const n3 = cluster.node("n3");
  const { position } = expectOk(await n3.ask({ cmd: "fence", term: 7 }));
  const lsn = position?.lsn ?? "0/0";
  const { systemIdentifier } = (await n3.status()) as unknown as { systemIdentifier: string };
  const fake = await fakeWalsender({
    socketPath: path.join(cluster.dir, ".s.PGSQL.5432"),
    systemIdentifier,
    timeline: 6,
    lsn,
    history: `1\t${lsn}\tnonsense\n`,
    say: () => [Buffer.concat([Buffer.from("q"), int64(2n ** 62n), int64(now), int64(0n)])],
  });
  t.teardown(() => fake.close());
  const conninfo = `host=${cluster.dir} port=5432 user=postgres application_name=n3 options=-cquorate.member=on`;
  const before = (await n3.status()).commitLsn;
  expectOk(await n3.ask({ cmd: "follow", term: 7, leader: "n1", conninfo }));
  await poll(async () => (await n3.log()).includes("the sender is on timeline 6"), {
    what: "the refusal",
    timeoutMs: 20_000,
  });
  t.equal(fake.streams(), 0, "not even a stream");
  t.equal((await n3.status()).commitLsn, before);
  await noCrash(t, n3);
});

test("a walreceiver that talks nonsense", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const thaw = [freezeReceiver(n2), freezeReceiver(n3)];
  const client = await n1.connect();
  const insert = client.query("insert into t values (1)");
  await untilWaiting(n1, 1);
  const socketPath = path.join(n1.socketDirectory, ".s.PGSQL.5432");
  const { flushedLsn } = await n1.status();
  const end = parseLsn(flushedLsn ?? "") ?? 0n;
  const start = { lsn: `0/${(end - (end % 8192n)).toString(16).toUpperCase()}`, timeline: 2 };
  const random = makeRandom(7);
  for (let i = 0; i < 40; i++) {
    // in no rule, so nothing that it says may count
    const receiver = await fakeReceiver(socketPath, "n9", start);
    for (let n = 1 + random.below(5); n > 0; n--) {
      const reply = Buffer.concat([
        Buffer.from("r"),
        ...[end, end, end].map((lsn) => int64(anyLsn(random, lsn))),
        int64(now),
        Buffer.from([random.below(2)]),
        ...(random.chance(2) ? [int64(anyLsn(random, now))] : []),
      ]);
      const bytes = random.pick([reply, reply, noise(i, random.below(60))]);
      receiver.say(random.chance(2) ? bytes.subarray(0, random.below(bytes.length + 1)) : bytes);
    }
    // it is alive, or it has hung up; both are fine
    await Promise.race([receiver.ended, new Promise((resolve) => setTimeout(resolve, 50))]);
    receiver.close();
  }
  await noCrash(t, n1);
  t.match(await n1.status(), { waiting: 1 });
  t.equal(await n1.value("select count(*) from t"), "0", "nothing was committed by it");

  // a member that claims more than there is: no more than what is on the leader's own disk becomes committed
  const liar = await fakeReceiver(socketPath, "n2", start);
  const claim = [2n ** 62n, 2n ** 62n, 2n ** 62n, now].map(int64);
  liar.say(Buffer.concat([Buffer.from("r"), ...claim, Buffer.from([0]), int64(0n)]));
  await liar.said();
  const { commitLsn, flushedLsn: after } = await n1.status();
  t.ok((parseLsn(commitLsn ?? "") ?? 0n) <= (parseLsn(after ?? "") ?? 0n), `${commitLsn} <= ${after}`);
  liar.close();
  for (const each of thaw) each();
  await insert;
  await noCrash(t, n1);
});

test("a damaged state file: every kind of damage is refused at start", async (t) => {
  const cluster = await makeCluster({ nodes: 1 });
  t.teardown(() => cluster.dispose());
  const n1 = cluster.node("n1");
  await n1.start();
  await cluster.lead("n1", 2, "n1");
  await n1.stop();
  const file = path.join(n1.data, "quorate/ruleset");
  const good = await readFile(file);
  const random = makeRandom(3);
  for (let i = 0; i < 12; i++) {
    const flipped = Buffer.from(good);
    const at = random.below(flipped.length);
    flipped[at] = (flipped[at] ?? 0) ^ (1 << random.below(8));
    const damaged = random.pick([
      flipped,
      good.subarray(0, random.below(good.length)),
      noise(i, good.length),
    ]);
    await writeFile(file, damaged);
    await n1.launch();
    t.not(await n1.exited(), 0, `damage ${i}`);
  }
  t.notMatch(await n1.log(), crash);
  await writeFile(file, good);
  await n1.start();
  t.match(await n1.status(), { ruleset: { version: 2 } });
});
