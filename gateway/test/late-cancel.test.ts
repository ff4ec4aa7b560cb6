// A cancel request names a process, not a request: as long as one may still reach it, the process must be doing nothing
// for anybody else. With a control: without that rule it hits another client.
import { poll } from "@quorate/common";
import t, { type Test } from "tap";
import type { Pool } from "../src/pool/pool.ts";
import type { Server } from "../src/pool/server.ts";
import { cancelRequest, startup } from "../src/wire/build.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const parameters = { user: "postgres", database: "postgres" };

const isRunning = async (what: string): Promise<boolean> =>
  (await postgres.sql(
    `select count(*) from pg_stat_activity where state = 'active' and query ~ '${what}' and pid <> pg_backend_pid()`,
  )) === "1";

/**
 * One server connection. The victim's request is cancelled, but its answer comes before the cancel request is even
 * sent; another client waits for the connection.
 */
async function cancelledTooLate(test: Test): Promise<{
  readonly victim: RawClient;
  readonly other: RawClient;
  readonly pool: Pool;
  readonly server: Server;
  /** The cancel request is sent at last. */
  sendIt(): void;
}> {
  const gateway = await startTestGateway(
    { host: "127.0.0.1", port: postgres.port },
    { pool: { size: 1 }, log: { level: "error" } },
  );
  test.teardown(() => gateway.close());
  const { worker } = gateway;
  const [victim, other] = [
    await RawClient.open(gateway.port),
    await RawClient.login(gateway.port, parameters),
  ];
  victim.send(startup(Object.entries(parameters)));
  const key = (await victim.until(1)).find(({ type }) => type === "K")?.body as Buffer;
  const { sendCancel } = worker;
  const held: (() => void)[] = [];
  worker.sendCancel = (...args) => void held.push(() => sendCancel.apply(worker, args));
  // An advisory lock of ours holds the request, so that it ends when the cancel request is known and not before.
  const holder = await RawClient.login(postgres.port, parameters);
  await holder.query("select pg_advisory_lock(1)");
  victim.send(wire.query("select pg_advisory_xact_lock(1) /* first */"));
  await poll(() => isRunning("first"), { timeoutMs: 10_000, what: "the victim's request runs" });
  const canceller = await RawClient.open(gateway.port);
  canceller.send(cancelRequest(key));
  await poll(() => held.length === 1, { timeoutMs: 10_000, what: "the gateway is about to cancel it" });
  holder.close();
  test.match(readable(await victim.until(1)), [/^T/, /^D/, /^C SELECT/, "Z I"], "it was answered");
  const pool = worker.pools.get("postgres\0postgres") as Pool;
  const [server] = [...pool.servers] as [Server];
  test.equal(server.cancels, 1);
  test.teardown(() => {
    for (const each of [victim, other, canceller]) each.close();
  });
  return {
    victim,
    other,
    pool,
    server,
    sendIt() {
      for (const each of held) each();
    },
  };
}

const slow = (what: string) => wire.query(`select pg_sleep(0.5)::text /* ${what} */`);

t.test("nobody else gets a server connection as long as a cancel request may reach it", async (t) => {
  const { victim, other, pool, server, sendIt } = await cancelledTooLate(t);
  other.send(slow("second"));
  await poll(() => pool.waitingCount === 1, { timeoutMs: 10_000, what: "the other one waits" });
  t.equal(pool.idle.length, 0);
  sendIt();
  t.match(readable(await other.until(1)), [/^T/, /^D/, /^C SELECT/, "Z I"], "it is not cancelled");
  t.equal(server.turns, 3, "on the connection that was cancelled");
  t.match(readable(await victim.query("select 'after'")).join(), /after/);
});

t.test("also if the client that was cancelled has left", async (t) => {
  const { victim, other, pool, sendIt } = await cancelledTooLate(t);
  victim.close();
  other.send(slow("third"));
  await poll(() => pool.waitingCount === 1, { timeoutMs: 10_000, what: "the other one waits" });
  sendIt();
  t.match(readable(await other.until(1)), [/^T/, /^D/, /^C SELECT/, "Z I"], "it is not cancelled");
  await poll(() => pool.idle.length === 1, { timeoutMs: 10_000, what: "the connection is free" });
});

t.test("control: who gets it at once is hit", async (t) => {
  const { victim, other, server, sendIt } = await cancelledTooLate(t);
  server.cancels = 0;
  await victim.query("select 'let go'");
  other.send(slow("fourth"));
  await poll(() => isRunning("fourth"), { timeoutMs: 10_000, what: "the other one's request runs" });
  sendIt();
  t.match(readable(await other.until(1)).join(), /57014/);
});
