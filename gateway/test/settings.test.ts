// Settings that are set in parts, or mean what they meant when they were set: on one server connection that several
// clients share, each must see what it would see on a connection of its own.
import pg from "pg";
import t, { type Test } from "tap";
import { levelChanges } from "../src/route/choose-follower.ts";
import { noSettings, settingsChangeSql, settingsOf } from "../src/session/settings.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";
import { randomFrom } from "./lib/random.ts";

const dateStyle = (value: string) => settingsOf(new Map([["datestyle", value]]));

t.test("nothing of the client before shines through the parts that a client has set", async (t) => {
  t.equal(
    settingsChangeSql(dateStyle("sql, dmy"), dateStyle("ymd")),
    "RESET datestyle;SELECT pg_catalog.set_config('datestyle','ymd',false)",
  );
  t.equal(
    settingsChangeSql(noSettings, dateStyle("ymd")),
    "SELECT pg_catalog.set_config('datestyle','ymd',false)",
  );
});

const postgres = await startPostgres();
t.teardown(() => postgres.stop());
await postgres.sql(`
  create schema one; create schema two;
  create text search configuration one.mine (copy = english);
  create text search configuration two.mine (copy = german);
`);
const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { pool: { size: 1 } });
t.teardown(() => gateway.close());

t.test("a setting that an older version of the extension lacks is left out, not an error", async (t) => {
  // An extension's prefix is reserved: plpgsql's stands for quorate's.
  const [known, missing] = ["plpgsql.extra_warnings", "plpgsql.of_a_later_version"];
  const where = { host: "127.0.0.1", port: postgres.port, user: "postgres", database: "postgres" };
  const server = new pg.Client(where);
  await server.connect();
  t.teardown(() => server.end());
  await server.query("load 'plpgsql'");
  const ask = async (name: string) =>
    (await server.query("select current_setting($1, true) as value", [name])).rows[0].value;
  const both = settingsOf(
    new Map([
      [known, "all"],
      [missing, "300"],
    ]),
  );
  const optional = new Set([known, missing]);
  await server.query(settingsChangeSql(noSettings, both, optional));
  t.same([await ask(known), await ask(missing)], ["all", null]);
  await server.query(settingsChangeSql(both, noSettings, optional));
  t.same([await ask(known), await ask(missing)], ["none", null]);
  const control = server.query(settingsChangeSql(noSettings, both, new Set()));
  await t.rejects(
    control,
    /invalid configuration parameter name/,
    "control: as an ordinary setting it fails",
  );
  const level = settingsOf(
    new Map(
      levelChanges({ kind: "leader" }, { kind: "bounded", ms: 500 }, 300).map(({ name, value }) => [
        name,
        value ?? "",
      ]),
    ),
  );
  t.match(settingsChangeSql(noSettings, level), /CASE WHEN .*'quorate\.staleness_timeout'.* IS NOT NULL/);
  t.notMatch(
    settingsChangeSql(noSettings, level),
    /current_setting\('quorate\.max_staleness'/,
    "nobody does without that",
  );
});

type Pair = { readonly direct: pg.Client; readonly pooled: pg.Client };

async function pairs(startups: readonly (string | undefined)[]): Promise<Pair[]> {
  return Promise.all(
    startups.map(async (options) => {
      const startup = options === undefined ? {} : { options };
      const where = { host: "127.0.0.1", port: postgres.port, user: "postgres", database: "postgres" };
      const direct = new pg.Client({ ...where, ...startup });
      await direct.connect();
      return { direct, pooled: await gateway.client(startup) };
    }),
  );
}

const saidBy = (client: pg.Client, sql: string): Promise<unknown> =>
  client.query({ text: sql, rowMode: "array" }).then(
    (result) => (Array.isArray(result) ? result.map(({ rows }) => rows) : result.rows),
    (error: Error) => error.message,
  );

/** The same by each client on its own connection and on the one that all share. */
async function compareEach(
  t: Test,
  clients: readonly Pair[],
  steps: Iterable<readonly [number, string]>,
): Promise<void> {
  const history: string[] = [];
  try {
    for (const [who, sql] of steps) {
      const { direct, pooled } = clients[who] as Pair;
      history.push(`${who}: ${sql}`);
      const wanted = await saidBy(direct, sql);
      const got = await saidBy(pooled, sql);
      if (JSON.stringify(wanted) !== JSON.stringify(got)) {
        t.same(got, wanted, history.slice(-12).join("\n"));
        return;
      }
    }
    t.ok(history.length > 0);
  } finally {
    for (const { direct, pooled } of clients) await Promise.all([direct.end(), pooled.end()]);
  }
}

t.test("a part of DateStyle survives the way to another connection", async (t) => {
  const show = "show datestyle";
  await compareEach(t, await pairs(["-c datestyle=Postgres,MDY", "-c datestyle=SQL,DMY"]), [
    [0, "set datestyle to iso"],
    [1, show],
    [0, "set datestyle to ymd"],
    [1, show],
    [0, show],
  ]);
});

t.test("random parts, transactions and resets by clients that take turns", async (t) => {
  const parts = ["iso", "sql", "postgres", "german", "ymd", "dmy", "us", "default", "iso, ymd"];
  const clients = await pairs([undefined, "-c datestyle=ymd", "-c datestyle=German", "-c datestyle=SQL,DMY"]);
  const random = randomFrom(Number(process.env["GATEWAY_FUZZ_SEED"] ?? 1));
  const open = clients.map(() => false);
  function* steps(): Generator<readonly [number, string]> {
    for (let step = 0; step < 600; step++) {
      let who = open.indexOf(true); // the connection is his
      if (who < 0) who = random.below(clients.length);
      const part = random.pick(parts);
      const plain = random.pick(parts.filter((each) => !each.includes("default"))); // inside other values a known difference
      const sql = random.pick([
        `set datestyle to ${part.includes(",") ? `'${part}'` : part}`,
        `set datestyle to ${part}`,
        `set local datestyle to '${plain}'`,
        `select set_config('datestyle', '${plain}', ${random.chance(0.2)})`,
        `do $$ begin perform set_config('datestyle', '${plain}', false); end $$`,
        "reset datestyle",
        random.chance(0.3) ? "reset all" : "show datestyle",
        "show datestyle",
        "select '2001-02-03'::date::text",
        open[who] ? random.pick(["commit", "rollback"]) : "begin",
      ]);
      yield [who, sql];
      if (sql === "begin") open[who] = true;
      if (sql === "commit" || sql === "rollback") open[who] = false;
    }
  }
  await compareEach(t, clients, steps());
});

t.test("startup parameters that are reset in a transaction", async (t) => {
  const show = "show work_mem";
  await compareEach(t, await pairs(["-c work_mem=8MB", "-c work_mem=6MB"]), [
    [0, "begin"],
    [0, "reset work_mem; set work_mem = '5MB'"],
    [0, show],
    [0, "commit"],
    [1, show],
    [0, show],
    [0, "begin"],
    [0, "reset all"],
    [0, show],
    [0, "do $$ begin perform set_config('work_mem', '9MB', false); end $$"],
    [0, "commit"],
    [0, show],
    [1, show],
    [0, show],
    [0, "begin"],
    [0, "reset work_mem"],
    [0, "rollback"],
    [1, show],
    [0, show],
  ]);
});

t.test("the text search configuration is the one that the name meant when it was set", async (t) => {
  const show = "show default_text_search_config";
  await compareEach(t, await pairs([undefined, undefined]), [
    [0, "set search_path to one"],
    [0, "set default_text_search_config to mine"],
    [0, "set search_path to two"],
    [1, show],
    [0, show],
    [1, "set search_path to two"],
    [1, "select set_config('default_text_search_config', 'mine', false)"],
    [1, "set search_path to public"],
    [0, show],
    [0, "select to_tsvector('running')"],
    [1, show],
    [1, "reset default_text_search_config"],
    [0, show],
    [1, show],
  ]);
});

t.test("a process that keeps other temporary buffers is no other client's", async (t) => {
  const small = "-c temp_buffers=100";
  const use = "create temp table scratch as select 1 as a; drop table scratch";
  const pid = async (client: pg.Client) => (await client.query("select pg_backend_pid() as pid")).rows[0].pid;
  for (const [options, first] of [
    [undefined, "set temp_buffers = 100"],
    [undefined, "begin; set local temp_buffers = 100; create temp table gone (a int) on commit drop; commit"],
    [small, "select 1"],
  ] as const) {
    const client = await gateway.client(options === undefined ? {} : { options });
    await client.query(first);
    await client.query(use);
    const [used] = [...(gateway.worker.pools.get("postgres\0postgres")?.servers ?? [])].map(
      ({ processId }) => processId,
    );
    await client.end();
    const other = await gateway.client();
    t.not(await pid(other), used, first);
    await other.end();
  }
  const client = await gateway.client();
  await client.query(use);
  const used = await pid(client);
  await client.end();
  const other = await gateway.client();
  t.equal(await pid(other), used, "control: with the buffers that all have it is");
  await other.end();
});
