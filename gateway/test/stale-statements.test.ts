// Statements are shared by their texts: whoever parses one anew gets a new plan, as on a connection of its own.
import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, type Received, wire } from "./lib/raw-client.ts";

const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { pool: { size: 1 } });
t.teardown(() => gateway.close());
const login = () => RawClient.login(gateway.port, { user: "postgres", database: "postgres" });
const text = "select x from thing";

const types = (received: readonly Received[]): string => received.map(({ type }) => type).join(" ");

/** As drivers do that describe a statement before they bind it: nothing can be made again after Flush. */
async function describe(client: RawClient, name: string): Promise<string> {
  client.send(wire.parse(name, text), wire.describe("S", name), wire.flush());
  const seen: string[] = [];
  for (;;) {
    const { type, body } = await client.next();
    seen.push(type === "E" ? `E ${/C(\w{5})/.exec(body.toString("latin1"))?.[1]}` : type);
    if (type === "E" || type === "T") break;
  }
  client.send(wire.bind("", name), wire.execute(""), wire.sync());
  return [...seen, types(await client.until(1))].join(" ");
}

await postgres.sql("create table thing (x int); insert into thing values (1)");
const first = await login();
const owner = await login();
t.equal(await describe(first, "a"), "1 t T 2 D C Z");

t.test("after definitions have changed through the gateway", async (t) => {
  await owner.query("drop table thing; create table thing (x text); insert into thing values ('one')");
  const second = await login();
  t.equal(await describe(second, "b"), "1 t T 2 D C Z");
  owner.send(wire.query("begin"), wire.query("alter table thing alter x type varchar(9)"));
  await owner.until(2);
  t.equal(await describe(owner, "c"), "1 t T 2 D C Z", "in the same transaction");
  await owner.query("rollback");
  t.equal(await describe(second, "d"), "1 t T 2 D C Z", "and after it was rolled back");
  second.close();
});

t.test(
  "a client that relies on an older description is told; one that asks for a new one is not",
  async (t) => {
    const client = await login();
    await owner.query("create table retyped (x text); insert into retyped values ('1')");
    client.send(wire.parse("known", "select x from retyped"), wire.describe("S", "known"), wire.sync());
    t.equal(types(await client.until(1)), "1 t T Z");
    await owner.query("alter table retyped alter x type int using x::int");
    client.send(wire.bind("", "known"), wire.execute(""), wire.sync());
    const answer = await client.until(1);
    t.equal(types(answer), "E Z", "as on a direct connection: the rows would not be what was described");
    t.match(answer[0]?.body.toString("latin1"), /C0A000/);
    const other = await login();
    other.send(wire.parse("", "select x from retyped"), wire.describe("S", ""), wire.sync());
    t.equal(types(await other.until(1)), "1 t T Z");
    other.send(wire.parse("", "select x from retyped"), wire.bind("", ""), wire.execute(""), wire.sync());
    t.equal(types(await other.until(1)), "1 2 D C Z", "another client that parses it has the new plan");
    client.send(wire.bind("", "known"), wire.execute(""), wire.sync());
    t.equal(types(await client.until(1)), "E Z", "which isn't the first one's");
    other.close();
    await owner.query("alter table retyped alter x type text");
    client.send(wire.bind("", "known"), wire.describe("P", ""), wire.execute(""), wire.sync());
    t.equal(types(await client.until(1)), "2 T D C Z");
    client.send(wire.bind("", "known"), wire.execute(""), wire.sync());
    t.equal(types(await client.until(1)), "2 D C Z", "from then on it knows");
    client.close();
  },
);

t.test(
  "after they have changed elsewhere, the first is told, as PostgreSQL would; then it is known",
  async (t) => {
    t.equal(await describe(first, "g"), "1 t T 2 D C Z");
    await postgres.sql("drop table thing; create table thing (x date); insert into thing values (now())");
    const second = await login();
    t.equal(await describe(second, "e"), "1 t E 0A000 Z");
    t.equal(await describe(second, "f"), "1 t T 2 D C Z");
    second.close();
  },
);

t.teardown(() => {
  first.close();
  owner.close();
});
