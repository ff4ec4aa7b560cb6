// Process ids, and clients with a server connection of their own: quorate.pool=session, login event triggers.
import { connect } from "node:net";
import { poll } from "@quorate/common";
import type pg from "pg";
import t from "tap";
import { startup } from "../src/wire/build.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, wire } from "./lib/raw-client.ts";

const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const gateway = await startTestGateway(
  { host: "127.0.0.1", port: postgres.port },
  { pool: { size: 3, waitMs: 2_000 } },
);
t.teardown(() => gateway.close());

const pidOf = async (client: pg.Client): Promise<number> =>
  (await client.query("select pg_backend_pid() as pid")).rows[0].pid;
const own = { options: "-c quorate.pool=session" };

t.test("a session of its own is one process, which the protocol names", async (t) => {
  const clients = await Promise.all([gateway.client(own), gateway.client(own)]);
  for (const client of clients) {
    const told = (client as unknown as { processID: number }).processID;
    t.equal(await pidOf(client), told);
    t.equal(await pidOf(client), told, "in the next transaction, too");
    t.equal((await client.query("show application_name")).rows[0].application_name, "");
  }
  t.not(await pidOf(clients[0] as pg.Client), await pidOf(clients[1] as pg.Client));
  await Promise.all(clients.map((client) => client.end()));
});

t.test(
  "it begins on a connection that nobody has had, also when all places are taken by idle ones",
  async (t) => {
    const others = await Promise.all([gateway.client(), gateway.client(), gateway.client()]);
    const used = await Promise.all(
      others.map(async (client) => {
        await client.query("begin");
        return client;
      }),
    );
    const pids = await Promise.all(used.map(pidOf));
    await Promise.all(used.map((client) => client.query("commit")));
    const client = await gateway.client(own);
    t.notOk(pids.includes(await pidOf(client)));
    t.equal((await others[0]?.query("select 1 as one"))?.rows[0].one, 1, "pooled clients go on beside it");
    await client.end();
    await Promise.all(others.map((each) => each.end()));
  },
);

t.test("who wants a new connection gets the place of one that is let go", async (t) => {
  const busy = await Promise.all([gateway.client(), gateway.client(), gateway.client()]);
  await Promise.all(busy.map((client) => client.query("begin")));
  const pids = await Promise.all(busy.map(pidOf));
  const wanted = gateway.client(own);
  await busy[0]?.query("commit");
  const client = await wanted;
  t.notOk(pids.includes(await pidOf(client)));
  await t.rejects(
    gateway.client({ ...own, user: "postgres" }).then(async (each) => {
      await each.query("select 1");
    }),
    { code: "57P03" },
    "and where none is let go, it is told so",
  );
  await Promise.all([...busy, client].map((each) => each.end()));
});

t.test("its cancel requests find it", async (t) => {
  const client = await gateway.client(own);
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
  const sleeping = client.query("select pg_sleep(20)");
  sleeping.catch(() => {});
  const packet = Buffer.alloc(16);
  for (const [at, value] of [16, 80877102, processID, secretKey].entries())
    packet.writeInt32BE(value, at * 4);
  const socket = connect(gateway.port, "127.0.0.1", () => socket.end(packet));
  await t.rejects(sleeping, { code: "57014" });
  await client.end();
});

t.test("an unknown mode is refused", async (t) => {
  await t.rejects(gateway.client({ options: "-c quorate.pool=statement" }), { code: "22023" });
  const client = await gateway.client({ options: "-c quorate.pool=transaction" });
  t.equal((await client.query("select 1 as one")).rows[0].one, 1);
  await client.end();
});

t.test("login event triggers run once for each session, and are heard", async (t) => {
  await postgres.sql("create database greeting");
  const pooled = await gateway.client({ database: "greeting" });
  await pooled.query("create table logins (n int)");
  await pooled.query(`create function greet() returns event_trigger language plpgsql as
    $$ begin insert into public.logins values (1); raise notice 'welcome'; end $$`);
  await pooled.query("create event trigger greet on login execute function greet()");
  await pooled.query("alter event trigger greet enable always");
  for (let count = 1; count <= 3; count++) {
    const raw = await RawClient.open(gateway.port);
    raw.send(
      startup([
        ["user", "postgres"],
        ["database", "greeting"],
      ]),
    );
    const notices = (await raw.until(1)).filter(({ type }) => type === "N");
    t.same(
      notices.map(({ body }) => /Mwelcome/.test(body.toString("latin1"))),
      [true],
    );
    raw.send(wire.query("select count(*)::int from logins"));
    const row = (await raw.until(1)).find(({ type }) => type === "D");
    t.equal(row?.body.toString("latin1", 6), String(count));
    raw.close();
  }
  await pooled.end();
});

t.test("whoever asks for its process id stays on that process, and ends with it", async (t) => {
  const client = await gateway.client();
  const other = await gateway.client();
  const pid = await pidOf(client);
  await other.query("begin");
  t.equal(await pidOf(client), pid);
  t.not(await pidOf(other), pid);
  const ended = new Promise<void>((resolve) => client.once("end", () => resolve()));
  await other.query("select pg_terminate_backend($1)", [pid]);
  await ended;
  await other.query("discard all").catch(() => other.query("commit"));
  await other.end();
});

t.test("notifications name the process ids that clients were told", async (t) => {
  const [listener, sender] = [await gateway.client(), await gateway.client()];
  const heard: pg.Notification[] = [];
  listener.on("notification", (each) => heard.push(each));
  await listener.query("listen news");
  await sender.query("notify news, 'from another'");
  await listener.query("notify news, 'from itself'");
  await poll(() => heard.length === 2, { what: "two notifications", timeoutMs: 10_000 });
  const told = (client: pg.Client) => (client as unknown as { processID: number }).processID;
  t.same(
    heard.map(({ payload, processId }) => [payload, processId]),
    [
      ["from another", told(sender)],
      ["from itself", told(listener)],
    ],
  );
  await Promise.all([listener.end(), sender.end()]);
});
