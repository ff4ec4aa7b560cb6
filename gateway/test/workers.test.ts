/** Two workers on threads of their own: to clients and to the operator they are one gateway. */
import { createLogger } from "@quorate/common";
import t from "tap";
import { parseConfig } from "../src/config.ts";
import { startGateway } from "../src/start.ts";
import { cancelRequest, startup } from "../src/wire/build.ts";
import { Counters } from "../src/workers/counters.ts";
import { mergeMetrics } from "../src/workers/merge.ts";
import { startPostgres } from "./lib/postgres.ts";
import { RawClient, readable, wire } from "./lib/raw-client.ts";

t.setTimeout(240_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const parameters = { user: "postgres", database: "postgres" };

type Known = { readonly client: RawClient; readonly key: Buffer; readonly worker: number };

async function open(port: number): Promise<Known> {
  const client = await RawClient.open(port);
  client.send(startup(Object.entries(parameters)));
  const greeting = await client.until(1);
  const key = greeting.find((each) => each.type === "K")?.body;
  if (key === undefined) throw new Error(readable(greeting).join());
  return { client, key, worker: (key.readInt32BE(0) >> 20) - 1 };
}

/** As many as it takes for both workers to have one: the kernel chooses. */
async function ofBoth(port: number, most: number): Promise<Known[]> {
  const clients: Known[] = [];
  while (clients.length < most && new Set(clients.map((each) => each.worker)).size < 2)
    clients.push(await open(port));
  return clients;
}

async function consoleRows(port: number, command: string): Promise<string[]> {
  const client = await RawClient.login(port, { user: "postgres", database: "quorate" });
  const answer = readable(await client.query(command));
  client.close();
  return answer.filter((line) => !/^[TSZ] /.test(line));
}

for (const transport of ["native", "net"]) {
  t.test(`${transport}: two workers`, async (t) => {
    const config = parseConfig({
      listen: { port: 0 },
      server: { host: "127.0.0.1", port: postgres.port },
      authentication: { method: "trust" },
      workers: 2,
      transport,
      pool: { size: 4, total: 1 },
      limits: { clients: 40 },
      metrics: { port: 0 },
    });
    const gateway = await startGateway({ config, log: createLogger({ name: "gateway", level: "warn" }) });
    t.teardown(() => gateway.close());
    const clients = await ofBoth(gateway.port, 40);
    const [one, other] = [0, 1].map((worker) => clients.find((each) => each.worker === worker)?.client);
    if (one === undefined || other === undefined) throw new Error("40 connections went to one worker");

    for (let round = 0; round < 3; round++) {
      t.match(readable(await one.query("select 'one'")).join(), /one/);
      t.match(
        readable(await other.query("select 'other'")).join(),
        /other/,
        "the one connection goes from worker to worker",
      );
    }

    const shown = await consoleRows(gateway.port, "show clients");
    t.equal(shown.filter((line) => line.startsWith("D ")).length, clients.length, "SHOW CLIENTS shows all");
    t.match((await consoleRows(gateway.port, "show stats")).join(), new RegExp(`clients.*${clients.length}`));
    t.match((await consoleRows(gateway.port, "show nonsense")).join(), /42601/);

    const target = clients[0] as Known;
    for (let round = 0; round < 6; round++) {
      target.client.send(wire.query("select pg_sleep(30)"));
      const running =
        "select count(*) from pg_stat_activity where query ~ 'sleep\\(30' and state = 'active' and pid <> pg_backend_pid()";
      while ((await postgres.sql(running)) !== "1") await new Promise((resolve) => setTimeout(resolve, 10));
      const canceller = await RawClient.open(gateway.port); // either worker may get it
      canceller.send(cancelRequest(target.key));
      t.match(readable(await target.client.until(1)).join(), /57014/);
      canceller.close();
    }

    t.same(await consoleRows(gateway.port, "pause"), ["C PAUSE\0"]);
    one.send(wire.query("select 'held'"));
    other.send(wire.query("select 'held'"));
    const waiting = /waiting/g;
    while (((await consoleRows(gateway.port, "show clients")).join().match(waiting) ?? []).length < 2)
      await new Promise((resolve) => setTimeout(resolve, 10));
    await consoleRows(gateway.port, "resume");
    for (const each of [one, other]) t.match(readable(await each.until(1)).join(), /held/);

    while (clients.length < 40) clients.push(await open(gateway.port));
    for (let attempt = 0; attempt < 4; attempt++)
      await t.rejects(open(gateway.port), /53300/, "the limit of clients is the gateway's");

    const metrics = await (await fetch(`http://127.0.0.1:${gateway.metricsPort}/metrics`)).text();
    t.match(metrics, /clients\{worker="0"\}/);
    t.match(metrics, /clients\{worker="1"\}/);
    t.equal(metrics.match(/# TYPE quorate_gateway_clients /g)?.length, 1);
    for (const each of clients) each.client.close();
  });
}

t.test("a port that is taken is an error, not a hang", async (t) => {
  const config = parseConfig({
    listen: { port: postgres.port },
    server: { host: "127.0.0.1", port: postgres.port },
    workers: 2,
  });
  await t.rejects(
    startGateway({ config, log: createLogger({ name: "gateway", level: "silent" }) }),
    /in use|EADDRINUSE/i,
  );
});

t.test("the last place is for one", (t) => {
  const buffer = Counters.bufferFor(2);
  const [left, right] = [new Counters(buffer, 0), new Counters(buffer, 1)];
  t.ok(left.reserve("servers", 0, 2));
  t.ok(right.reserve("servers", 0, 2));
  t.notOk(left.reserve("servers", 1, 2));
  t.equal(right.total("servers"), 2);
  left.clear();
  t.ok(right.reserve("servers", 1, 2));
  t.equal(right.total("clients"), 0);
  t.end();
});

t.test("metrics of several workers", (t) => {
  const text = (worker: number) =>
    `# HELP a A.\n# TYPE a gauge\na{worker="${worker}"} 1\n# HELP b B.\n# TYPE b counter\nb{worker="${worker}"} 2\n`;
  t.same(mergeMetrics([text(0), text(1)]).split("\n"), [
    "# HELP a A.",
    "# TYPE a gauge",
    'a{worker="0"} 1',
    'a{worker="1"} 1',
    "# HELP b B.",
    "# TYPE b counter",
    'b{worker="0"} 2',
    'b{worker="1"} 2',
    "",
  ]);
  t.end();
});
