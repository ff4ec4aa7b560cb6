import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

t.setTimeout(120_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
await postgres.sql("create table lines (line text)");
const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port });
t.teardown(() => gateway.close());
const login = () => RawClient.login(gateway.port, { user: "postgres", database: "postgres" });

t.test("a long COPY in, whose messages end anywhere in the read buffer", async (t) => {
  const client = await login();
  client.send(wire.query("copy lines from stdin"));
  const line = `${"x".repeat(701)}\n`;
  const count = 8_000;
  for (let sent = 0; sent < count; sent += 100)
    client.send(...Array.from({ length: 100 }, () => wire.copyData(line)));
  client.send(wire.copyDone());
  t.equal(readable(await client.until(1)).at(-2), `C COPY ${count}\0`);
  client.close();
});

t.test("a query that is longer than what is read of a blocked client", async (t) => {
  const client = await login();
  for (const length of [65_000, 66_000, 200_000, 3_000_000]) {
    const got = await client.query(`select length('${"y".repeat(length)}')`);
    t.match(readable(got).join("\n"), `${length}`);
  }
  client.close();
});
