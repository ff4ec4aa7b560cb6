// The gateway that `npm start` puts in front of a cluster: what its clients see while leaders die, stand still and
// hand over. Each claim has its control: the same clients without the gateway do notice.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { livePid, poll, sendSignal } from "@quorate/common";
import { gatewayUrl, paths } from "@quorate/orchestrator/cluster/files.ts";
import pg from "pg";
import t from "tap";
import { quorate, TestCluster } from "./lib/cluster.ts";
import { isNoMoreThanPostgres } from "./lib/no-more-than-postgres.ts";

t.setTimeout(540_000);
const cluster = await TestCluster.prepare(t, { gateway: true });
const started = await cluster.up();
await cluster.waitUntilWhole();
const url = gatewayUrl(cluster.open) ?? "";
const program = (name: string) => path.join(cluster.bin, name);

async function connect(to = url): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: to });
  client.on("error", () => undefined);
  await client.connect();
  t.teardown(() => client.end().catch(() => undefined));
  return client;
}

const portOf = async (client: pg.Client): Promise<number> =>
  (await client.query("select inet_server_port() as port")).rows[0].port;

async function codeOf(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

t.test("its connection string is the first that is printed", async (test) => {
  test.equal(/postgresql:\S+/.exec(started.stdout)?.[0], url);
  test.equal((await quorate("url", "--dir", cluster.dir)).stdout.trim(), url);
  test.equal(await portOf(await connect()), cluster.node(await cluster.leader()).ports.postgres);
});

t.test("it is no more than Postgres is, where root starts it", async (test) => {
  const [id = ""] = cluster.open.file.gateways.map((gateway) => gateway.id);
  const config = paths.gatewayConfig(cluster.dir, id);
  await isNoMoreThanPostgres(test, livePid(paths.gatewayPid(cluster.dir, id), config), config);
});

type Bench = { readonly child: ChildProcess; readonly ended: Promise<{ code: number | null; text: string }> };

function pgbench(to: string, seconds: number): Bench {
  const args = ["-n", "-M", "prepared", "-c", "8", "-T", String(seconds), to];
  const child = spawn(program("pgbench"), args, { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (text += chunk));
  const ended = new Promise<{ code: number | null; text: string }>((resolve) =>
    child.once("exit", (code) => resolve({ code, text })),
  );
  return { child, ended };
}

t.test("a planned switchover under load: no error at all", async (test) => {
  await promisify(execFile)(program("pgbench"), ["-i", "-q", "-s", "2", url], { timeout: 60_000 });
  const through = pgbench(url, 15);
  const first = await cluster.leader();
  const direct = pgbench(cluster.url(first), 15);
  const others = cluster.ids.filter((id) => id !== first);
  for (const to of [...others, first]) {
    // On a busy machine a node may be asked in vain: then again.
    await poll(
      async () => {
        const { code } = await quorate("switchover", "--to", to, "--dir", cluster.dir);
        return code === 0 || (await cluster.picture()).leader === to || undefined;
      },
      { what: `${to} to lead`, timeoutMs: 120_000 },
    );
    await cluster.waitUntilWhole();
  }
  const { code, text } = await through.ended;
  test.equal(code, 0, text);
  test.match(text, /number of failed transactions: 0 /);
  test.notMatch(text, /error|aborted/i);
  test.not((await direct.ended).code, 0, "control: without the gateway all clients lose their connections");
});

t.test("kill -9 of the leader: who had nothing in flight doesn't notice", async (test) => {
  await (await connect()).query("create table seen (id bigserial primary key, who text)");
  const idle = await Promise.all(Array.from({ length: 10 }, () => connect()));
  for (const [at, client] of idle.entries()) {
    await client.query(`set work_mem = '${at + 1}MB'`);
    await client.query({
      name: "count",
      text: "select count(*)::int as n from seen where who = $1",
      values: ["x"],
    });
  }
  const [open, committing, reading] = [await connect(), await connect(), await connect()];
  await open.query("begin");
  await open.query("insert into seen (who) values ('open')");
  await committing.query("begin");
  await committing.query("insert into seen (who) values ('committing')");
  const old = await cluster.leader();
  const control = await connect(cluster.url(old));
  await control.query("select 1");
  const read = reading.query("select pg_sleep(2), 'read' as answer");
  const { term } = await cluster.picture();
  cluster.killPostgres(old);

  const answers = idle.map(async (client, at) => {
    const shown = await client.query("show work_mem");
    const counted = await client.query({
      name: "count",
      text: "select count(*)::int as n from seen where who = $1",
      values: ["x"],
    });
    await client.query("insert into seen (who) values ('held')");
    return [shown.rows[0].work_mem, counted.rows[0].n, at];
  });
  test.same(
    await Promise.all(answers),
    idle.map((_, at) => [`${at + 1}MB`, 0, at]),
    "settings and prepared statements are there",
  );
  test.ok((await cluster.picture()).term > term);
  test.equal((await read).rows[0].answer, "read", "a read that was in flight is answered by the next leader");
  test.equal(await codeOf(open.query("select 1")), "40001", "an open transaction is certainly rolled back");
  test.equal(await codeOf(open.query("select 1")), "25P02");
  await open.query("rollback");
  test.equal(await codeOf(open.query("select 1")), undefined, "and the session goes on");
  test.equal(
    (await committing.query("commit")).command,
    "ROLLBACK",
    "a commit that was never sent is no commit",
  );
  const { rows } = await open.query("select who, count(*)::int as n from seen group by who");
  test.same(rows, [{ who: "held", n: 10 }], "each that was held was done once");
  test.ok(await codeOf(control.query("select 1")), "control: a direct connection is gone");
  await cluster.waitUntilWhole();
});

t.test("kill -9 under load: only requests that were in flight fail, and say what is known", async (test) => {
  await (await connect()).query("create table load (id bigint primary key)");
  const acked: number[] = [];
  const unknown: number[] = [];
  const refused: string[] = [];
  let running = true;
  let next = 0;
  let killedAtMs = Number.NaN;
  const clients = await Promise.all(Array.from({ length: 8 }, () => connect()));
  const done = clients.map(async (client) => {
    while (running) {
      const id = ++next;
      const error = await client.query("insert into load values ($1)", [id]).then(
        () => undefined,
        (reason: pg.DatabaseError) => reason,
      );
      if (error === undefined) acked.push(id);
      else if (error.code === "08007") unknown.push(id);
      else {
        refused.push(
          `${error.code}: ${error.message} (${error.detail}), ${Date.now() - killedAtMs} ms after the kill`,
        );
        if (error.code === undefined) return; // its connection is gone: all that follows would fail at once
      }
    }
  });
  try {
    await poll(() => acked.length > 200, { what: "load", timeoutMs: 30_000 });
    const old = await cluster.leader();
    killedAtMs = Date.now();
    cluster.killPostgres(old);
    await cluster.waitForLeader((id) => id !== old);
    const before = acked.length;
    await poll(() => acked.length > before + 200, { what: "load on the next leader", timeoutMs: 30_000 });
  } finally {
    running = false; // or they would go on for ever, on connections that are gone
    await Promise.all(done);
  }
  test.same(refused, [], "no other error");
  test.ok(
    unknown.length <= clients.length,
    `${unknown.length} of ${next} unknown, at most one for each client`,
  );
  const { rows } = await (clients[0] as pg.Client).query<{ id: string }>("select id from load");
  const there = new Set(rows.map(({ id }) => Number(id)));
  test.same(
    acked.filter((id) => !there.has(id)),
    [],
    "nothing acknowledged is lost",
  );
  test.same(
    [...there].filter((id) => !acked.includes(id) && !unknown.includes(id)),
    [],
    "nothing else was done",
  );
  await cluster.waitUntilWhole();
});

t.test("a leader that stood still is asked nothing any more when it goes on", async (test) => {
  const client = await connect();
  await client.query("create table steps (n int primary key)");
  await client.query("insert into steps values (0)");
  const old = await cluster.leader();
  const { term } = await cluster.picture();
  // The postmaster and all of its children, as when the machine stands still.
  const postmaster = cluster.postmasterPid(old);
  const { stdout } = await promisify(execFile)("pgrep", ["-P", String(postmaster)]);
  const pids = [postmaster, ...stdout.trim().split("\n").map(Number)];
  for (const pid of pids) sendSignal(pid, "SIGSTOP");
  try {
    const next = await cluster.waitForLeader((id) => id !== old);
    test.not(next, old);
    await poll(async () => (await portOf(await connect())) === cluster.node(next).ports.postgres, {
      what: "the gateway to go to the next leader",
      timeoutMs: 20_000,
    });
    await client.query("insert into steps values (1)");
    for (const pid of pids) sendSignal(pid, "SIGCONT");
    for (let step = 2; step < 60; step++) {
      const fresh = step % 10 === 0 ? await connect() : client;
      await fresh.query("insert into steps values ($1)", [step]);
      const { rows } = await fresh.query("select max(n) as n, inet_server_port() as port from steps");
      if (rows[0].n !== step || rows[0].port !== cluster.node(next).ports.postgres) test.same(rows, step);
    }
  } finally {
    for (const pid of pids) sendSignal(pid, "SIGCONT");
  }
  test.ok((await cluster.picture()).term > term);
});
