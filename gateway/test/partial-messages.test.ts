/**
 * Messages that arrive in pieces while something else happens to their connection: the rest of a message goes where
 * its beginning went, and a server connection that has had a beginning is nobody else's before the end.
 */
import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

t.setTimeout(120_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const parameters = { user: "postgres", database: "postgres" };

for (const transport of ["net", "native"]) {
  t.test(`${transport}: half of a CopyData behind a query`, async (t) => {
    const gateway = await startTestGateway(
      { host: "127.0.0.1", port: postgres.port },
      { pool: { size: 1 }, transport },
    );
    const first = await RawClient.login(gateway.port, parameters);
    const second = await RawClient.login(gateway.port, parameters);
    const data = wire.copyData("x".repeat(1000));
    first.send(wire.query("select 'first'"), data.subarray(0, 100));
    t.match(readable(await first.until(1)).join(), /first/);
    second.send(wire.query("select 'second'"));
    first.send(data.subarray(100), wire.query("select 'again'"));
    t.match(readable(await first.until(1)).join(), /again/);
    t.match(readable(await second.until(1)).join(), /second/);

    first.send(wire.query("select 'third'"), data.subarray(0, 100));
    t.match(readable(await first.until(1)).join(), /third/);
    first.close();
    t.match(readable(await second.query("select 'fourth'")).join(), /fourth/);
    second.close();
    await gateway.close();
  });

  t.test(`${transport}: an error while a Bind is on its way in pieces`, async (t) => {
    const gateway = await startTestGateway(
      { host: "127.0.0.1", port: postgres.port },
      { pool: { size: 1 }, transport },
    );
    const client = await RawClient.login(gateway.port, parameters);
    const bind = wire.bind("", "", ["y".repeat(300_000)]);
    client.send(wire.parse("", "select 1/0"), wire.bind("", ""), wire.execute(""), wire.flush());
    client.send(bind.subarray(0, 1000));
    await client.find("E");
    client.send(bind.subarray(1000), wire.sync());
    t.match(readable(await client.until(1)), [/^Z I$/]);
    t.match(readable(await client.query("select 'on'")).join(), /on/);
    client.close();
    await gateway.close();
  });
}
