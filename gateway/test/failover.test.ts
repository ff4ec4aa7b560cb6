import t from "tap";
import type { Pool } from "../src/pool/pool.ts";
import type { Server } from "../src/pool/server.ts";
import { SettableLeaderSource, type View } from "../src/route/leader-source.ts";
import type { Client } from "../src/session/client.ts";
import { errorBytes, wireError } from "../src/wire/errors.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, type Received, readable, wire } from "./lib/raw-client.ts";

// Two servers that share nothing: what counts is what the gateway tells its clients when one dies and another leads.
t.setTimeout(180_000);
const [first, second] = await Promise.all([startPostgres(), startPostgres()]);
t.teardown(() => Promise.all([first.stop(), second.stop()]));
for (const each of [first, second]) await each.sql("create table notes (id int primary key, by_whom text)");

const at = (server: typeof first, term: number): View => ({
  leader: { node: `n${term}`, term, host: "127.0.0.1", port: server.port },
  holding: false,
  followers: [],
});
const nobody: View = { leader: undefined, holding: false, followers: [] };
const leaders = new SettableLeaderSource(at(first, 1));
const gateway = await startTestGateway(
  { host: "127.0.0.1", port: first.port },
  { pool: { size: 10, waitMs: 10_000 }, limits: { clients: 50 } },
  leaders,
);
t.teardown(() => gateway.close());

const login = () => RawClient.login(gateway.port, { user: "postgres", database: "postgres" });
const types = (received: readonly Received[]): string => received.map(({ type }) => type).join(" ");
const errorsOf = (lines: readonly string[]) =>
  lines.filter((line) => line.startsWith("E ")).map((line) => /\|C(\w{5})\|/.exec(line)?.[1]);

t.test("the leader is killed", async (t) => {
  const [idle, inTransaction, committing, writing, reading, prepared] = await Promise.all([
    login(),
    login(),
    login(),
    login(),
    login(),
    login(),
  ]);
  await idle.query("select 1");
  await inTransaction.query("begin");
  await inTransaction.query("insert into notes values (1, 'open')");
  await committing.query("begin");
  await committing.query("insert into notes values (2, 'committing')");
  prepared.send(wire.parse("p", "select count(*)::int from notes where id > $1::int"), wire.sync());
  await prepared.until(1);
  writing.send(wire.query("insert into notes select 3, pg_sleep(60)::text"));
  reading.send(wire.query("select pg_sleep(1), 'read'"));
  const busy =
    "select count(*) from pg_stat_activity where state = 'active' and query ~ 'pg_sleep' and pid <> pg_backend_pid()";
  while ((await first.sql(busy)) !== "2") await new Promise((resolve) => setTimeout(resolve, 20));

  leaders.set(nobody);
  await first.kill();
  const write = readable(await writing.until(1));
  t.same(errorsOf(write), ["08007"], "a write in flight: outcome unknown");
  t.equal(write.at(-1), "Z I", "and the session goes on");
  committing.send(wire.query("commit"));
  t.same(
    errorsOf(readable(await committing.until(1))),
    [],
    "nothing was in flight: the transaction is known to be lost",
  );
  const open = readable(await inTransaction.query("insert into notes values (4, 'late')"));
  t.same(errorsOf(open), ["40001"]);
  t.equal(open.at(-1), "Z E");
  t.same(errorsOf(readable(await inTransaction.query("select 1"))), ["25P02"]);
  t.equal(readable(await inTransaction.query("rollback")).at(-1), "Z I");

  // While nobody leads, requests wait.
  idle.send(wire.query("insert into notes values (5, 'held')"));
  prepared.send(wire.bind("", "p", ["0"]), wire.execute(""), wire.sync());
  leaders.set(at(second, 2));
  t.match(readable(await idle.until(1)), ["C INSERT 0 1\0", "Z I"]);
  t.match(readable(await reading.until(1)).join(), /read/, "a read is made again");
  const counted = readable(await prepared.until(1));
  t.same(errorsOf(counted), [], "statements are prepared anew");
  t.equal(await second.sql("select string_agg(id::text, ',') from notes"), "5");
  for (const each of [idle, inTransaction, committing, writing, reading, prepared]) each.close();
});

t.test("a fast shutdown says what it ended: such requests are made again", async (t) => {
  const client = await login();
  client.send(wire.query("insert into notes select 6, pg_sleep(3)::text"));
  const busy =
    "select count(*) from pg_stat_activity where query ~ 'select 6' and state = 'active' and pid <> pg_backend_pid()";
  while ((await second.sql(busy)) !== "1") await new Promise((resolve) => setTimeout(resolve, 20));
  await second.sql(
    "select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'select 6' and pid <> pg_backend_pid()",
  );
  t.match(readable(await client.until(1)), ["C INSERT 0 1\0", "Z I"]);
  t.equal(await second.sql("select count(*) from notes where id = 6"), "1");
  client.close();
});

t.test("a planned change: new transactions wait, open ones end", async (t) => {
  const open = await login();
  const other = await login();
  await open.query("begin");
  leaders.set({ ...at(second, 2), holding: true });
  other.send(wire.query("select 'held'"));
  t.match(readable(await open.query("insert into notes values (7, 'x')")), ["C INSERT 0 1\0", "Z T"]);
  t.match(readable(await open.query("commit")), ["C COMMIT\0", "Z I"]);
  t.equal(gateway.worker.pools.get("postgres\0postgres")?.waitingCount, 1);
  leaders.set(at(second, 2));
  t.match(readable(await other.until(1)).join(), /held/);
  open.close();
  other.close();
});

/** The gateway's cancel requests are held until they are let go. */
function holdCancels(): () => void {
  const { worker } = gateway;
  const { sendCancel } = worker;
  const held: (() => void)[] = [];
  worker.sendCancel = (...args) => void held.push(() => sendCancel.apply(worker, args));
  return () => {
    worker.sendCancel = sendCancel;
    for (const each of held) each();
  };
}

t.test("a cancel request that comes late doesn't hit the client's next request", async (t) => {
  const client = await login();
  const pool = gateway.worker.pools.get("postgres\0postgres");
  const letGo = holdCancels();
  const busy = "select count(*) from pg_stat_activity where query ~ 'select 8' and pid <> pg_backend_pid()";
  client.send(wire.query("insert into notes select 8, pg_sleep(0.5)::text"));
  while ((await second.sql(busy)) !== "1") await new Promise((resolve) => setTimeout(resolve, 10));
  leaders.set({ ...at(second, 2), holding: true });
  t.match(
    readable(await client.until(1)),
    ["C INSERT 0 1\0", "Z I"],
    "it is answered before it is cancelled",
  );
  t.equal(
    [...(pool?.servers ?? [])].filter((each) => each.cancels > 0).length,
    1,
    "its cancel is on its way",
  );
  client.send(wire.query("insert into notes select 9, pg_sleep(0.5)::text"));
  await new Promise((resolve) => setTimeout(resolve, 100));
  letGo();
  leaders.set(at(second, 2));
  t.match(readable(await client.until(1)), ["C INSERT 0 1\0", "Z I"]);
  client.close();
});

t.test("a request that was taken back is made once, whatever is in its way", async (t) => {
  const busy = "select count(*) from pg_stat_activity where state = 'active' and query ~ 'taken back'";
  let term = 2;
  for (const [text, what] of [
    ["insert into notes select $, nextval('seq') || pg_sleep(2)::text /* taken back */", "a sequence"],
    ["insert into notes select $, pg_sleep(2)::text /* taken back */", "settings to be changed"],
  ] as const) {
    await second.sql("create sequence if not exists seq; delete from notes");
    const client = await RawClient.login(gateway.port, {
      user: "postgres",
      database: "postgres",
      work_mem: "5MB",
    });
    client.send(wire.query(text.replace("$", "10")));
    while ((await second.sql(`${busy} and pid <> pg_backend_pid()`)) !== "1")
      await new Promise((resolve) => setTimeout(resolve, 10));
    leaders.set({ ...at(second, term), holding: true });
    const pool = gateway.worker.pools.get("postgres\0postgres") as Pool;
    while (pool.waitingCount === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    // The leader changes again while the next connection is being given the client's settings.
    const { release } = pool;
    pool.release = (server) => {
      release.call(pool, server);
      if (pool.release === release) return;
      pool.release = release;
      leaders.set(at(second, ++term));
    };
    leaders.set(at(second, ++term));
    const answer = readable(await client.until(1));
    t.match(answer, ["C INSERT 0 1\0", "Z I"], what);
    t.equal(await second.sql("select count(*) from notes"), "1", "it is done once");
    client.close();
  }
});

t.test("a server that is lost while it is asked for a statement's rows: another is asked", async (t) => {
  const client = await login();
  client.send(
    wire.parse("rows", "select id from notes where id = 10"),
    wire.describe("S", "rows"),
    wire.sync(),
  );
  t.equal(types(await client.until(1)), "1 t T Z");
  gateway.worker.pools.get("postgres\0postgres")?.reconnect();
  const [own] = [...gateway.worker.clients.values()].filter((each) => each.told !== undefined);
  const { askRows } = own as Client;
  let asked = 0;
  (own as Client).askRows = (server, statement) => {
    askRows.call(own, server, statement);
    if (asked++ === 0) setImmediate(() => server.close("lost"));
  };
  client.send(wire.bind("", "rows"), wire.execute(""), wire.sync());
  t.equal(types(await client.until(1)), "2 D C Z");
  t.equal(asked, 2);
  t.equal(types(await client.query("select 1")), "T D C Z", "and it goes on");
  client.close();
});

t.test("a server's last words to nobody: it is given to nobody", async (t) => {
  const client = await login();
  await client.query("select 1");
  const pool = gateway.worker.pools.get("postgres\0postgres") as Pool;
  const server = pool.idle.at(-1) as Server;
  const fatal = errorBytes(
    wireError("FATAL", "57P01", "terminating connection due to unexpected postmaster exit"),
  );
  gateway.worker.options.transport.turn(() => server.data(fatal, 0, fatal.length));
  client.send(wire.query("insert into notes select 20, pg_sleep(0.3)::text"));
  // The end of the connection comes later than the last words.
  setTimeout(() => gateway.worker.options.transport.turn(() => server.closed("connection closed")), 100);
  t.match(readable(await client.until(1)), ["C INSERT 0 1\0", "Z I"]);
  client.close();
});

t.test("nobody leads for too long", async (t) => {
  const short = await startTestGateway(
    { host: "127.0.0.1", port: 1 },
    { pool: { waitMs: 300 } },
    new SettableLeaderSource(nobody),
  );
  t.teardown(() => short.close());
  const client = await RawClient.login(short.port, { user: "postgres", database: "postgres" });
  const answer = client.closed ? [] : readable(await client.until(1));
  t.equal(client.closed || errorsOf(answer)[0] === "57P03", true);
});
