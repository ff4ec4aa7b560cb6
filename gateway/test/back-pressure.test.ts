/**
 * A fast sender and a slow receiver: what the gateway holds meanwhile is bounded, in both directions, and everything
 * arrives in the end.
 */
import { poll } from "@quorate/common";
import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

t.setTimeout(240_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const parameters = { user: "postgres", database: "postgres" };
const megabyte = 1024 * 1024;
/** The mark at which a sender is stopped, and what was on its way then. */
const mostHeld = 2 * megabyte;

for (const transport of ["native", "net"]) {
  t.test(`${transport}: a client that doesn't read`, async (t) => {
    const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { transport });
    const client = await RawClient.login(gateway.port, parameters);
    client.socket.pause();
    client.send(wire.query("select repeat('x', 1048576) from generate_series(1, 60)"));
    const [held] = [...gateway.worker.clients.values()];
    const waiting =
      "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query ~ 'repeat'";
    // It waits now and then before that, too, when the gateway gets no processor.
    await poll(async () => (held?.link.queued ?? 0) > 0 && (await postgres.sql(waiting)) === "1", {
      timeoutMs: 60_000,
      what: "the client's socket to be full and the server to wait",
    });
    t.ok((held?.link.queued ?? 0) < mostHeld, `${held?.link.queued} bytes are held`);

    const other = await RawClient.login(gateway.port, parameters);
    t.match(readable(await other.query("select 'undisturbed'")).join(), /undisturbed/);
    client.socket.resume();
    const received = await client.until(1, 120_000);
    t.equal(received.filter((each) => each.type === "D").length, 60);
    t.ok(received.filter((each) => each.type === "D").every((each) => each.body.length === megabyte + 6));
    client.close();
    other.close();
    await gateway.close();
  });

  t.test(`${transport}: a server that doesn't read`, async (t) => {
    const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { transport });
    const locker = await RawClient.login(gateway.port, parameters);
    const client = await RawClient.login(gateway.port, parameters);
    await postgres.sql("drop table if exists loaded; create table loaded (line text)");
    t.match(readable(await locker.query("begin")), ["C BEGIN\0", "Z T"]);
    t.match(readable(await locker.query("lock table loaded")), ["C LOCK TABLE\0", "Z T"]);
    const line = wire.copyData(`${"y".repeat(65_000)}\n`);
    client.send(wire.query("copy loaded from stdin"));
    for (let each = 0; each < 600; each++) client.send(line);
    client.send(wire.copyDone());
    const held = () =>
      Math.max(...[...gateway.worker.clients.values()].map((each) => each.server?.link.queued ?? 0));
    const taken = () => client.socket.bytesWritten - client.socket.writableLength;
    let before = -1;
    const stopped = async (): Promise<boolean> => {
      const still = held() > 0 && taken() === before;
      before = taken();
      return still;
    };
    await poll(stopped, { timeoutMs: 60_000, intervalMs: 300, what: "the client is stopped" });
    t.ok(client.socket.writableLength > 20 * megabyte, "most is still the client's");
    t.ok(held() < mostHeld, `${held()} bytes are held`);
    await locker.query("commit");
    t.match(readable(await client.until(1, 120_000)).join(), /COPY 600/);
    t.equal(await postgres.sql("select count(*), sum(length(line)) from loaded"), "600|39000000");
    client.close();
    locker.close();
    await gateway.close();
  });
}
