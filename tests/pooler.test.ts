// The gateway that each sidecar runs for its node's clients: whichever node one connects to, any transaction works; and
// nothing that happens to a gateway happens to its sidecar.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { descendants, isAlive, poll, SecretFile, sendSignal } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { connectSidecar } from "@quorate/proto";
import pg from "pg";
import t from "tap";
import { quorate, TestCluster } from "./lib/cluster.ts";
import { isNoMoreThanPostgres } from "./lib/no-more-than-postgres.ts";

t.setTimeout(480_000);
const cluster = await TestCluster.prepare(t, { gateway: true });
const started = await cluster.up();
await cluster.waitUntilWhole();
const password = cluster.secret("app.password");

type Where = "pooler" | "poolerRead";

function portOf(id: string, where: Where): number {
  const port = cluster.node(id).ports[where];
  if (port === undefined) throw new Error(`${id} has no port ${where}`);
  return port;
}

async function connect(id: string, where: Where = "pooler", options = ""): Promise<pg.Client> {
  const port = portOf(id, where);
  const client = new pg.Client({ host: "127.0.0.1", port, user: "app", password, database: "app", options });
  client.on("error", () => undefined);
  await client.connect();
  t.teardown(() => client.end().catch(() => undefined));
  return client;
}

/** A pooler may be just starting. */
const connectSoon = (id: string, where: Where = "pooler", options = ""): Promise<pg.Client> =>
  poll(() => connect(id, where, options).catch(() => undefined), {
    what: `the pooler of ${id} to let clients in`,
    timeoutMs: 60_000,
  });

const serverPort = async (client: pg.Client): Promise<number> =>
  (await client.query("select inet_server_port() as port")).rows[0].port;

function poolerPid(id: string): number | undefined {
  const file = path.join(paths.node(cluster.dir, id), "pooler", "gateway.pid");
  if (!existsSync(file)) return undefined;
  const pid = Number(readFileSync(file, "utf8"));
  return isAlive(pid) ? pid : undefined;
}

/** What its console shows of connections and clients. */
async function shownBy(id: string): Promise<Record<string, unknown>> {
  const port = portOf(id, "pooler");
  const operator = new pg.Client({ host: "127.0.0.1", port, user: "app", password, database: "quorate" });
  await operator.connect();
  try {
    const shown: Record<string, unknown> = {};
    for (const what of ["pools", "clients", "servers", "leases"])
      shown[what] = (await operator.query(`show ${what}`)).rows;
    return shown;
  } finally {
    await operator.end();
  }
}

/** How long its sidecar takes to answer. */
async function sidecarAnswersMs(id: string): Promise<number> {
  const { host, ports } = cluster.node(id);
  const client = connectSidecar(`${host}:${ports.grpc}`);
  const startedAtMs = performance.now();
  try {
    await client.getStatus({ deadlineMs: 2_000 });
  } finally {
    client.close();
  }
  return performance.now() - startedAtMs;
}

t.test("every node's pooler takes any transaction: writes go to the leader, reads stay", async (test) => {
  const leader = await cluster.leader();
  const first = await connectSoon(leader);
  await first.query("create table seen (who text)");
  for (const id of cluster.ids) {
    test.match(started.stdout, `${id} 127.0.0.1:${portOf(id, "pooler")}`, "its port is printed");
    const writer = await connectSoon(id);
    await writer.query("insert into seen values ($1)", [id]);
    test.equal(
      await serverPort(writer),
      cluster.node(leader).ports.postgres,
      "who says nothing reads what is newest",
    );
    const reader = await connect(id, "pooler", "-c quorate.read=session");
    await reader.query("insert into seen values ($1)", [id]);
    await poll(async () => (await serverPort(reader)) === cluster.node(id).ports.postgres, {
      what: `reads to stay on ${id}`,
      timeoutMs: 20_000,
    });
    const { rows } = await reader.query("select count(*)::int as n from seen where who = $1", [id]);
    test.equal(rows[0].n, 2, "and see what the session wrote");
    const readPort = await connect(id, "poolerRead");
    test.equal(await serverPort(readPort), cluster.node(id).ports.postgres);
    await test.rejects(readPort.query("insert into seen values ('x')"), { code: "25006" });
  }
  const { stdout } = await quorate("status", "--dir", cluster.dir);
  for (const id of cluster.ids)
    test.match(stdout, new RegExp(`${id} .* ${portOf(id, "pooler")} `), "status shows it");
  const json = JSON.parse((await quorate("status", "--json", "--dir", cluster.dir)).stdout);
  test.same(
    json.nodes.map((node: { poolerPort: number }) => node.poolerPort),
    cluster.ids.map((id) => portOf(id, "pooler")),
  );
});

t.test("connections are leased by the node's sidecar", async (test) => {
  const leader = await cluster.leader();
  const [id = ""] = cluster.ids.filter((each) => each !== leader);
  const { leases } = await shownBy(id);
  const ofLeader = (leases as Record<string, string>[]).find(({ node }) => node === leader) ?? {};
  test.match(ofLeader, { leased: "t" });
  test.ok(Number(ofLeader.used) > 0 && Number(ofLeader.used) <= Number(ofLeader.share));
  const { ports } = cluster.node(leader);
  const token = new SecretFile(path.join(paths.secrets(cluster.dir), "api.token")).value;
  const answer = await fetch(`http://127.0.0.1:${ports.http}/metrics`, {
    headers: { authorization: `Bearer ${token}` },
  });
  const text = await answer.text();
  test.match(
    text,
    /quorate_connection_budget\{[^}]*\} 87/,
    "of 100, less 3 of PostgreSQL's own and 10 reserved",
  );
  const leased = Number(/quorate_connections_leased\{[^}]*\} (\d+)/.exec(text)?.[1]);
  test.ok(leased > 0 && leased <= 87, `${leased} are leased`);
  test.match(text, /quorate_gateway_clients\{/, "the pooler's own metrics are shown by the sidecar");
});

t.test("it is no more than Postgres is, where its sidecar is root", async (test) => {
  for (const id of cluster.ids) {
    await connectSoon(id);
    const config = path.join(paths.node(cluster.dir, id), "pooler", "gateway.json");
    await isNoMoreThanPostgres(test, poolerPid(id), config);
  }
});

t.test("a pooler that stands still, or dies, is nothing to its sidecar", async (test) => {
  const id = await cluster.leader();
  const [other = ""] = cluster.ids.filter((each) => each !== id);
  const sidecar = cluster.sidecarPid(id);
  const pooler = poolerPid(id) ?? 0;
  test.ok(
    descendants(sidecar).some(({ pid }) => pid === pooler),
    "it is the sidecar's child",
  );
  const before = await cluster.picture();

  sendSignal(pooler, "SIGSTOP");
  const waits: number[] = [];
  for (let round = 0; round < 20; round++) waits.push(await sidecarAnswersMs(id));
  sendSignal(pooler, "SIGCONT");
  test.ok(Math.max(...waits) < 1_500, `the sidecar answers within ${Math.max(...waits).toFixed(0)} ms`);
  // Not the leader's, who would be replaced if that lasts.
  sendSignal(cluster.sidecarPid(other), "SIGSTOP");
  await test.rejects(sidecarAnswersMs(other), "control: a sidecar that stands still doesn't");
  sendSignal(cluster.sidecarPid(other), "SIGCONT");
  await poll(() => sidecarAnswersMs(other).catch(() => undefined), {
    what: "it to go on",
    timeoutMs: 20_000,
  });

  sendSignal(pooler, "SIGSEGV"); // as when an addon fails
  await poll(() => poolerPid(id) !== undefined && poolerPid(id) !== pooler, {
    what: "another pooler",
    timeoutMs: 30_000,
  });
  test.equal(await serverPort(await connectSoon(id)), cluster.node(await cluster.leader()).ports.postgres);
  test.equal(cluster.sidecarPid(id), sidecar, "the sidecar is the same");
  test.equal((await cluster.waitUntilWhole()).term, before.term, "and so is the leader");
});

t.test("it ends with its sidecar, and comes back with it", async (test) => {
  const leader = await cluster.leader();
  const [id = ""] = cluster.ids.filter((each) => each !== leader);
  const pooler = poolerPid(id) ?? 0;
  cluster.killSidecar(id);
  await poll(() => !isAlive(pooler), { what: "the pooler to end", timeoutMs: 10_000 });
  const client = await connectSoon(id);
  test.not(poolerPid(id), pooler);
  await client.query("insert into seen values ('again')");
});

t.test("who uses a pooler doesn't notice a switchover", async (test) => {
  const leader = await cluster.leader();
  const clients = await Promise.all(cluster.ids.map((id) => connectSoon(id)));
  const [next = ""] = cluster.ids.filter((each) => each !== leader);
  const startedAtMs = performance.now();
  const at = () => `${((performance.now() - startedAtMs) / 1_000).toFixed(2)} s`;
  const errors: string[] = [];
  /** Of each client: how many, and since when it waits. */
  const counts = clients.map(() => ({ done: 0, since: at() }));
  const done = () => counts.reduce((sum, each) => sum + each.done, 0);
  let running = true;
  const work = clients.map(async (client, of) => {
    const count = counts[of] as { done: number; since: string };
    while (running && errors.length === 0) {
      await client.query("insert into seen values ('switchover')");
      count.done++;
      count.since = at();
    }
  });
  for (const [of, each] of work.entries())
    each.catch((error: pg.DatabaseError) =>
      errors.push(`${cluster.ids[of]}, ${at()}: ${error.code} ${error.message} (${error.detail ?? ""})`),
    );
  try {
    const run = await quorate("switchover", "--to", next, "--dir", cluster.dir);
    test.equal(run.code, 0, run.stderr);
    const before = counts.map((count) => count.done);
    const switchedAt = at();
    await poll(() => errors.length > 0 || counts.every((count, of) => count.done > (before[of] ?? 0) + 10), {
      what: "work on the next leader",
      timeoutMs: 30_000,
    }).catch(async (error: Error) => {
      test.fail(`${error.message}: the switchover ended at ${switchedAt}, it is ${at()}`, {
        errors,
        counts,
        before,
        poolers: await Promise.all(cluster.ids.map(async (id) => [id, await shownBy(id).catch(String)])),
      });
    });
  } finally {
    running = false;
  }
  await Promise.allSettled(work);
  test.same(errors, []);
  if (!test.passing()) test.comment(await cluster.story());
  const { rows } = await (clients[0] as pg.Client).query(
    "select count(*)::int as n from seen where who = 'switchover'",
  );
  test.equal(rows[0].n, done());
  for (const client of clients) test.equal(await serverPort(client), cluster.node(next).ports.postgres);
});
