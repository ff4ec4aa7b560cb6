// Reads on followers through the gateway. Each level has its control: where the guard is off, the same read is stale.
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { poll } from "@quorate/common";
import { gatewayUrl } from "@quorate/orchestrator/cluster/files.ts";
import pg from "pg";
import t from "tap";
import { quorate, TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";

t.setTimeout(540_000);
const cluster = await TestCluster.start(t, { gateway: true });
await cluster.waitUntilWhole();
const url = gatewayUrl(cluster.open) ?? "";
const readUrl = gatewayUrl(cluster.open, "read") ?? "";

async function connect(level?: string, to = url): Promise<pg.Client> {
  const options = level === undefined ? {} : { options: `-c quorate.read=${level}` };
  const client = new pg.Client({ connectionString: to, ...options });
  client.on("error", () => undefined);
  await client.connect();
  t.teardown(() => client.end().catch(() => undefined));
  return client;
}

type Seen = { readonly n: number; readonly port: number };
const seen = "select max(n) as n, inet_server_port() as port from steps";
const look = async (client: pg.Client): Promise<Seen> => (await client.query<Seen>(seen)).rows[0] as Seen;
const portOf = (id: string): number => cluster.node(id).ports.postgres;
const leaderPort = async (): Promise<number> => portOf(await cluster.leader());

const writer = await connect();
await writer.query("create table steps (n int primary key)");
await writer.query("insert into steps values (0)");
let steps = 0;
const step = async (client = writer): Promise<number> => {
  await client.query("insert into steps values ($1)", [++steps]);
  return steps;
};

async function followers(): Promise<string[]> {
  const leader = await cluster.leader();
  return cluster.ids.filter((id) => id !== leader);
}

/** Followers that apply nothing are as far behind as one likes. */
async function standStill<T>(ids: readonly string[], work: () => Promise<T>): Promise<T> {
  const each = (call: string) =>
    Promise.all(
      ids.map((id) => withClient(cluster.superuser(id), (client) => client.query(`select ${call}()`))),
    );
  await each("pg_wal_replay_pause");
  await Promise.all(
    ids.map((id) =>
      poll(
        async () =>
          (
            await withClient(cluster.superuser(id), (client) =>
              client.query("select pg_get_wal_replay_pause_state() as s"),
            )
          ).rows[0].s === "paused" || undefined,
        { what: `${id} to pause`, timeoutMs: 20_000 },
      ),
    ),
  );
  try {
    return await work();
  } finally {
    await each("pg_wal_replay_resume");
  }
}

t.test("without a level the leader answers", async (test) => {
  const client = await connect();
  for (let i = 0; i < 5; i++) test.equal((await look(client)).port, await leaderPort());
});

t.test("session: own writes are seen, and followers answer", async (test) => {
  const client = await connect("session");
  const leader = await leaderPort();
  let onFollowers = 0;
  for (let i = 0; i < 40; i++) {
    const n = await step(client);
    const got =
      i % 2 === 0
        ? await look(client)
        : ((await client.query<Seen>({ name: "look", text: seen })).rows[0] as Seen);
    if (got.n < n || got.port !== leader) onFollowers += got.port === leader ? 0 : 1;
    if (got.n < n) test.equal(got.n, n);
  }
  test.ok(onFollowers > 20, `${onFollowers} of 40 reads on followers`);
});

t.test(
  "no follower has what was written: the session waits, the leader answers; eventual is stale",
  async (test) => {
    const [session, eventual, bounded] = [
      await connect("session"),
      await connect("eventual"),
      await connect("bounded(200ms)"),
    ];
    await step(session);
    await poll(async () => (await look(eventual)).n === steps || undefined, {
      what: "the followers",
      timeoutMs: 10_000,
    });
    await standStill(await followers(), async () => {
      const before = steps;
      const n = await step(session);
      const leader = await leaderPort();
      const stale = await look(eventual);
      test.not(stale.port, leader);
      test.equal(stale.n, before, "control: without the wait the own write is not seen");
      test.same(await look(session), { n, port: leader }, "session");
      await new Promise((resolve) => setTimeout(resolve, 300));
      const askedMs = performance.now();
      test.same(await look(bounded), { n, port: leader }, "bounded: too old on every follower");
      const tookMs = performance.now() - askedMs;
      test.ok(
        tookMs < 4_000,
        `waited for reads.waitMs, not for proof of leadership: ${Math.round(tookMs)} ms`,
      );
      const loose = await connect("bounded(1h)");
      const far = await poll(
        async () => {
          const got = await look(loose);
          return got.port === leader ? undefined : got;
        },
        { what: "a read on a follower", timeoutMs: 10_000 },
      );
      test.equal(far.n, before, "control: an hour is a wide bound");
    });
    await poll(async () => (await look(bounded)).port !== (await leaderPort()) || undefined, {
      what: "bounded reads on followers again",
      timeoutMs: 10_000,
    });
  },
);

t.test("a session never goes back in time when its follower changes", async (test) => {
  for (const level of ["session", "eventual"]) {
    const reader = await connect(level);
    const ids = await followers();
    const a = await poll(
      async () => {
        const { port } = await look(reader);
        return ids.find((id) => portOf(id) === port);
      },
      { what: "a read on a follower", timeoutMs: 20_000 },
    );
    await standStill(
      ids.filter((id) => id !== a),
      async () => {
        const n = await step();
        // The reader comes to the follower that goes on, and sees what the other one lacks.
        await poll(
          async () => ((await look(reader)).n === n && (await look(reader)).port === portOf(a)) || undefined,
          {
            what: `a read on ${a}`,
            timeoutMs: 20_000,
          },
        );
        await quorate("node", "stop", a, "--dir", cluster.dir);
        const after = await look(reader);
        if (level === "session") test.equal(after.n, n, "session");
        else test.equal(after.n, n - 1, "control: eventual does go back");
        await quorate("node", "start", a, "--dir", cluster.dir);
      },
    );
    await cluster.waitUntilWhole();
  }
});

t.test("a setting that a trigger changes follows its session, and reaches nobody else", async (test) => {
  await writer.query(
    `create table watched (n int);
     create function leave_setting() returns trigger language plpgsql as
       $$ begin perform set_config('app.who', new.n::text, false); perform set_config('work_mem', '7MB', false); return new; end $$;
     create trigger leaves before insert on watched for each row execute function leave_setting()`,
  );
  const show = "select current_setting('app.who', true) as who, current_setting('work_mem') as mem";
  const clients = await Promise.all([1, 2, 3].map(() => connect()));
  await Promise.all(
    clients.slice(0, 2).map((client, at) => client.query("insert into watched values ($1)", [at])),
  );
  for (let round = 0; round < 3; round++) {
    for (const [at, client] of clients.entries()) {
      const { who, mem } = (await client.query(show)).rows[0];
      if (at < 2) test.same({ who, mem }, { who: String(at), mem: "7MB" }, `client ${at}`);
      else test.same([who || null, mem], [null, "4MB"], "who did nothing has nothing");
    }
  }
});

t.test("the port for reads", async (test) => {
  const reader = await connect(undefined, readUrl);
  const leader = await leaderPort();
  test.not((await look(reader)).port, leader);
  await reader.query("begin");
  test.not((await look(reader)).port, leader);
  await reader.query("commit");
  const refused = await reader
    .query("insert into steps values (-1)")
    .catch((error: { code?: string }) => error.code);
  test.equal(refused, "25006");
  const psql = async (attributes: string): Promise<string> => {
    const ports = [url, readUrl].map((each) => new URL(each).port).join(",");
    const { username, password, pathname } = new URL(url);
    const conninfo = `host=127.0.0.1,127.0.0.1 port=${ports} user=${username} dbname=${pathname.slice(1)} target_session_attrs=${attributes}`;
    const args = ["-X", "-A", "-t", "-d", conninfo, "-c", "select inet_server_port()"];
    const env = { ...process.env, PGPASSWORD: password };
    return (await promisify(execFile)(path.join(cluster.bin, "psql"), args, { env })).stdout.trim();
  };
  for (const attributes of ["read-write", "primary", "any"])
    test.equal(await psql(attributes), String(leader), attributes);
  for (const attributes of ["read-only", "standby", "prefer-standby"])
    test.not(await psql(attributes), String(leader), attributes);
});

t.test(
  "what a follower can't do, the leader does; transactions that only read go to followers",
  async (test) => {
    const client = await connect("eventual");
    const leader = await leaderPort();
    test.ok((await client.query("select pg_current_wal_lsn() as lsn")).rows[0].lsn, "refused in recovery");
    await client.query("begin read only");
    test.not((await look(client)).port, leader);
    test.not((await look(client)).port, leader);
    await client.query("commit");
    await client.query("begin");
    test.equal((await look(client)).port, leader);
    await client.query("rollback");
    test.equal(
      await client.query("select * from nowhere").catch((error: { code?: string }) => error.code),
      "42P01",
    );
    await client.query("set quorate.read = leader");
    test.equal((await look(client)).port, leader);
    await client.query("reset quorate.read");
    await poll(async () => (await look(client)).port !== leader || undefined, {
      what: "a follower",
      timeoutMs: 5_000,
    });
    await writer.query("alter role app set quorate.read = 'eventual'");
    await poll(async () => (await look(await connect())).port !== leader || undefined, {
      what: "the level of the role",
      timeoutMs: 20_000,
      intervalMs: 200,
    });
  },
);
