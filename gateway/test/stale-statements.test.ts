// Statements are shared by their texts: whoever parses one anew gets a new plan, as on a connection of its own.
import t from "tap";
import { message } from "../src/wire/build.ts";
import { fe } from "../src/wire/codec.ts";
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

t.test("rows of other types than the client was told of are never sent", async (t) => {
  const two = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { pool: { size: 2 } });
  t.teardown(() => two.close());
  const enter = () => RawClient.login(two.port, { user: "postgres", database: "postgres" });
  const client = await enter();
  /** Another client takes the connection that was used last, so that this one gets the other. */
  const elsewhere = async (...messages: Uint8Array[]): Promise<string> => {
    const other = await enter();
    await other.query("begin");
    client.send(...messages, wire.sync());
    const answer = await client.until(1);
    await other.query("rollback");
    other.close();
    return answer.map(({ type, body }) => (type === "E" ? readError(body) : type)).join(" ");
  };
  const readError = (body: Buffer) =>
    ["C", "M", "R"]
      .map((field) => new RegExp(`(?:^|\0)${field}([^\0]*)`).exec(body.toString())?.[1])
      .join("/");
  const refused = "0A000/cached plan must not change result type/RevalidateCachedQuery Z";
  const prepare = async (name: string, sql: string) => {
    client.send(wire.parse(name, sql), wire.describe("S", name), wire.sync());
    return types(await client.until(1));
  };
  const run = (name: string) => [wire.bind("", name), wire.execute("")];
  const shape = (type: string) =>
    postgres.sql(`drop table if exists shape; create table shape (x ${type}); insert into shape values (1)`);

  await shape("int");
  t.equal(await prepare("known", "select x from shape"), "1 t T Z");
  t.equal(await elsewhere(...run("known")), "2 D C Z", "nothing has changed: there it is the same");
  await shape("int");
  await two.worker.pools.get("postgres\0postgres")?.reconnect();
  t.equal(await elsewhere(...run("known")), "2 D C Z", "another table with the same columns");

  await shape("text");
  two.worker.pools.get("postgres\0postgres")?.reconnect();
  t.equal(await elsewhere(...run("known")), refused);
  t.equal(await elsewhere(wire.describe("S", "known")), refused, "nor is it described anew");
  t.equal(await elsewhere(...run("known")), refused, "and so on");
  t.equal(await prepare("again", "select x from shape"), "1 t T Z");
  t.equal(await elsewhere(...run("again")), "2 D C Z", "who prepares it anew is served");
  await shape("int");
  two.worker.pools.get("postgres\0postgres")?.reconnect();
  t.equal(await elsewhere(...run("known")), "2 D C Z", "and who is told the truth again");

  t.equal(await prepare("adds", "insert into shape values (2) returning x"), "1 t T Z");
  await shape("text");
  two.worker.pools.get("postgres\0postgres")?.reconnect();
  t.equal(await elsewhere(...run("adds")), refused);
  t.equal(await postgres.sql("select count(*) from shape"), "1", "it was not executed");

  client.send(
    wire.parse("portal", "select x as y from shape"),
    wire.bind("", "portal"),
    wire.describe("P", ""),
    wire.execute(""),
    wire.sync(),
  );
  t.equal(types(await client.until(1)), "1 2 T D C Z");
  await shape("int");
  two.worker.pools.get("postgres\0postgres")?.reconnect();
  t.equal(await elsewhere(...run("portal")), refused, "a description of a portal is one of its statement");

  await shape("text");
  two.worker.pools.get("postgres\0postgres")?.reconnect();
  for (const each of two.worker.clients.values()) each.told = undefined;
  t.equal(
    await elsewhere(...run("known")),
    "2 D C Z",
    "control: without the check it is sent rows of another type",
  );
  client.close();
});

t.test("parameters have the types that the client was told of", async (t) => {
  const one = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { pool: { size: 1 } });
  t.teardown(() => one.close());
  const direct = await RawClient.login(postgres.port, { user: "postgres", database: "postgres" });
  const pooled = await RawClient.login(one.port, { user: "postgres", database: "postgres" });
  const both = [direct, pooled];
  t.teardown(() => both.map((each) => each.close()));
  /** An integer of four bytes, as a client sends it that was told of one. */
  const bindInt = (name: string, value: number): Buffer => {
    const rest = Buffer.alloc(16);
    for (const [at, word] of [1, 1, 1].entries()) rest.writeInt16BE(word, at * 2); // one format, binary; one value
    rest.writeInt32BE(4, 6);
    rest.writeInt32BE(value, 10);
    return message(fe.bind, `\0${name}\0`, rest);
  };
  const ask = async (client: RawClient, ...messages: Uint8Array[]): Promise<string> => {
    client.send(...messages, wire.sync());
    return types(await client.until(1));
  };
  const anew = async (type: string): Promise<void> => {
    await postgres.sql("drop table if exists typed");
    await postgres.sql(`create table typed (x ${type})`);
    one.worker.pools.get("postgres\0postgres")?.reconnect();
  };
  const run = (value: number) => [bindInt("adds", value), wire.execute("")];

  await anew("int");
  for (const each of both)
    t.equal(
      await ask(each, wire.parse("adds", "insert into typed values ($1)"), wire.describe("S", "adds")),
      "1 t n Z",
    );
  await anew("real");
  for (const each of both) {
    t.equal(await ask(each, ...run(42)), "2 C Z");
    t.equal(await ask(each, ...run(43)), "2 C Z");
  }
  t.equal(await postgres.sql("select string_agg(x::text, ' ') from typed"), "42 43 42 43");
  await pooled.query("select 1");
  const described = async (client: RawClient): Promise<string | undefined> => {
    client.send(wire.describe("S", "adds"), wire.sync());
    return (await client.until(1)).find(({ type }) => type === "t")?.body.toString("hex");
  };
  t.equal(await described(pooled), await described(direct));

  await anew("int");
  t.equal(
    await ask(pooled, wire.parse("more", "insert into typed values ($1)"), wire.describe("S", "more")),
    "1 t n Z",
  );
  await anew("real");
  for (const client of one.worker.clients.values()) client.toldTypes = undefined;
  t.equal(await ask(pooled, bindInt("more", 42), wire.execute("")), "2 C Z");
  t.not(
    await postgres.sql("select x from typed"),
    "42",
    "control: without the check it is taken for another type",
  );
});

t.teardown(() => {
  first.close();
  owner.close();
});
