/**
 * Hostile and dying clients beside well-behaved ones: garbage at every stage, truncated and lying lengths, cancels in
 * storms, readers that don't read, servers that are killed. No crash, no connection leaked, and never another client's
 * rows. GATEWAY_FUZZ_ROUNDS makes it longer, GATEWAY_FUZZ_SEED begins elsewhere, GATEWAY_TRANSPORT names one transport.
 */
import { randomBytes } from "node:crypto";
import { messageOf, poll } from "@quorate/common";
import t, { type Test } from "tap";
import { cancelRequest, startup } from "../src/wire/build.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { type Random, randomFrom } from "./lib/random.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

const rounds = Number(process.env["GATEWAY_FUZZ_ROUNDS"] ?? 50);
// On a busy machine a round of each of the four runs takes seconds.
t.setTimeout(300_000 + rounds * 10_000);
const transports = process.env["GATEWAY_TRANSPORT"]?.split(",") ?? ["native", "net"];
const seed = Number(process.env["GATEWAY_FUZZ_SEED"] ?? 1);
const poolSize = 4;
/** Damage makes of a short sleep a long one, which would go on when its client has left. */
const postgres = await startPostgres({ statement_timeout: "10s" });
t.teardown(() => postgres.stop());
const parameters = { user: "postgres", database: "postgres" };

/** Good messages of all kinds, to be cut, joined and damaged. */
function someMessages(random: Random, tag: string): Buffer[] {
  const one = (): Buffer =>
    random.pick([
      wire.query(`select '${tag}'`),
      wire.query("begin"),
      wire.query("select repeat('x', 100000)"),
      wire.query("copy (select generate_series(1, 1000)) to stdout"),
      wire.query("create temp table if not exists f (a int); copy f from stdin"),
      wire.query("select pg_sleep(0.02)"),
      wire.parse("", `select '${tag}', $1::text`),
      wire.parse("n", `select '${tag}'`),
      wire.bind("", "", ["v"]),
      wire.bind("", "n"),
      wire.describe("S", "n"),
      wire.execute("", random.below(3)),
      wire.sync(),
      wire.flush(),
      wire.copyData("1\n"),
      wire.copyDone(),
      wire.copyFail("no"),
      wire.closeStatement("n"),
    ]);
  return Array.from({ length: 1 + random.below(8) }, one);
}

function damage(random: Random, bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  switch (random.below(5)) {
    case 0:
      return copy.subarray(0, random.below(copy.length + 1));
    case 1:
      if (copy.length > 4) copy.writeInt32BE(random.pick([0, 3, -1, 0x7fff_ffff, 5, 100_000]), 1);
      return copy;
    case 2:
      copy[random.below(copy.length)] = random.below(256);
      return copy;
    case 3:
      return Buffer.concat([copy, randomBytes(random.below(64))]);
    default:
      return copy;
  }
}

async function hostile(port: number, random: Random, tag: string): Promise<void> {
  const client = await RawClient.open(port);
  try {
    if (random.chance(0.15)) {
      client.send(damage(random, startup(Object.entries(parameters))));
      return;
    }
    if (random.chance(0.1)) {
      client.send(randomBytes(1 + random.below(200)));
      return;
    }
    client.send(startup(Object.entries(parameters)));
    if (random.chance(0.7)) await client.until(1);
    if (random.chance(0.2)) client.socket.pause();
    for (let step = 0; step < 1 + random.below(4); step++) {
      const bytes = Buffer.concat(someMessages(random, tag));
      const sent = random.chance(0.4) ? damage(random, bytes) : bytes;
      const cut = random.below(sent.length + 1);
      client.send(sent.subarray(0, cut));
      if (random.chance(0.5)) await new Promise((resolve) => setImmediate(resolve));
      client.send(sent.subarray(cut));
    }
    await new Promise((resolve) => setTimeout(resolve, random.below(30)));
  } finally {
    client.close();
  }
}

/** What a client may be told when its server is killed. */
const lossOfServer = /\|C(57P01|57P02|08006|08007|40001|25P02)\|/;

/** Asks for its own tag again and again, in all ways, and believes nobody. */
async function honest(
  port: number,
  random: Random,
  name: string,
  over: () => boolean,
  serversDie: boolean,
): Promise<string[]> {
  const wrong: string[] = [];
  let client = await RawClient.login(port, parameters);
  for (let turn = 0; !over() && wrong.length === 0; turn++) {
    const tag = `${name}-${turn}`;
    let answer: string[];
    if (random.chance(0.4)) answer = readable(await client.query(`select '${tag}'`));
    else if (random.chance(0.5)) {
      client.send(wire.parse("", "select $1::text"), wire.bind("", "", [tag]), wire.execute(""), wire.sync());
      answer = readable(await client.until(1));
    } else {
      await client.query("begin");
      answer = readable(await client.query(`select '${tag}' from generate_series(1, 50)`));
      await client.query("commit");
    }
    if (serversDie) {
      if (client.closed) client = await RawClient.login(port, parameters);
      if (answer.at(-1) !== "Z I" && !client.closed) await client.query("rollback");
    }
    const rows = answer.filter((line) => line.startsWith("D "));
    const excused = serversDie && (answer.length === 0 || lossOfServer.test(answer.join()));
    if ((rows.length === 0 && !excused) || rows.some((row) => !row.endsWith(tag)))
      wrong.push(`${tag}: ${answer.join(" / ").slice(0, 300)}`);
  }
  client.close();
  return wrong;
}

const backends = "from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";

for (const transport of transports) {
  for (const serversDie of [false, true]) {
    t.test(`${transport}: well-behaved clients${serversDie ? ", while servers die" : ""}`, async (t) => {
      const gateway = await startTestGateway(
        { host: "127.0.0.1", port: postgres.port },
        { pool: { size: poolSize }, log: { level: "error" }, transport },
      );
      const random = randomFrom(seed);
      let over = false;
      const honestOnes = Array.from({ length: 4 }, (_, at) =>
        honest(gateway.port, randomFrom(seed * 100 + at), `honest${at}`, () => over, serversDie),
      );
      const all = Promise.all(honestOnes);
      all.catch(() => {}); // awaited below
      for (let round = 0; round < rounds; round++) {
        const tags = Array.from({ length: 4 }, (_, at) => `hostile${round}-${at}`);
        await Promise.all(tags.map((tag) => hostile(gateway.port, random, tag)));
        if (round % 10 === 0) {
          const storm = await RawClient.open(gateway.port);
          storm.send(cancelRequest(randomBytes(8)));
          storm.close();
          if (serversDie)
            await postgres.sql(`select pg_terminate_backend(pid) ${backends} order by random() limit 2`);
        }
      }
      over = true;
      t.same((await all).flat(), []);
      const pool = gateway.worker.pools.get("postgres\0postgres");
      await poll(async () => gateway.worker.clients.size === 0 && pool?.idle.length === pool?.servers.size, {
        timeoutMs: 60_000,
        what: "all clients gone and all connections idle",
      });
      t.ok((pool?.servers.size ?? 0) <= poolSize);
      t.equal(pool?.waitingCount, 0);
      // A process whose connection was closed may have to finish what it is at.
      // A process whose connection was closed may have to finish what it is at.
      const busy = `select pid, state, wait_event, query ${backends} and state <> 'idle'`;
      await poll(async () => (await postgres.sql(busy)) === "", {
        timeoutMs: 20_000,
        what: "no session to be left in a transaction",
      }).catch(async (error: unknown) => t.fail(`${messageOf(error)}: ${await postgres.sql(busy)}`));
      await gateway.close();
    });
  }
  t.test(`${transport}: cancel hits the request that was running, and no other`, (t) =>
    cancelling(t, transport),
  );
}

async function cancelling(t: Test, transport: string): Promise<void> {
  const gateway = await startTestGateway(
    { host: "127.0.0.1", port: postgres.port },
    { pool: { size: poolSize }, log: { level: "error" }, transport },
  );
  const clients = await Promise.all(Array.from({ length: 3 }, () => RawClient.open(gateway.port)));
  const keys: Buffer[] = [];
  for (const client of clients) {
    client.send(startup(Object.entries(parameters)));
    const greeting = await client.until(1);
    keys.push(greeting.find((each) => each.type === "K")?.body as Buffer);
  }
  for (let round = 0; round < 9; round++) {
    const victim = round % 3;
    const [target, ...others] = [clients[victim] as RawClient, ...clients.filter((_, at) => at !== victim)];
    target.send(wire.query("select pg_sleep(30)"));
    const running =
      "select count(*) from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'";
    await poll(async () => (await postgres.sql(running)) === "1", {
      timeoutMs: 10_000,
      what: "the victim runs",
    });
    const canceller = await RawClient.open(gateway.port);
    canceller.send(cancelRequest(keys[victim] as Buffer));
    for (const other of others) {
      const answer = readable(await other.query("select 'undisturbed'"));
      t.match(answer.join(), /undisturbed/);
    }
    t.match(readable(await target.until(1)).join(), /57014/);
    t.match(readable(await target.query("select 'after'")).join(), /after/);
    canceller.close();
  }
  for (const client of clients) client.close();
  await gateway.close();
}
