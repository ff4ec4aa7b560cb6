/**
 * Two gateways that both want more connections than there are: with leases from the sidecar they never have more than
 * its budget together, whoever dies; without leases they do.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { createLogger, freePort, poll } from "@quorate/common";
import { nodeId, term } from "@quorate/consensus/types.ts";
import {
  type NodeStatus,
  type SidecarHandlers,
  type SidecarServer,
  startSidecarServer,
} from "@quorate/proto";
import { ConnectionBudget } from "@quorate/sidecar/budget/connection-budget.ts";
import pg from "pg";
import t, { type Test } from "tap";
import { parseConfig } from "../src/config.ts";
import { startGateway } from "../src/start.ts";
import { startPostgres } from "./lib/postgres.ts";

t.setTimeout(240_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const sampler = new pg.Client({
  host: "127.0.0.1",
  port: postgres.port,
  user: "postgres",
  database: "postgres",
});
await sampler.connect();
t.teardown(() => sampler.end());

const budget = 20;
const unleased = 3;
const clientsEach = 30;
const leaseMs = 4_000;

const leads = {
  node: nodeId("n1"),
  zone: "a",
  host: "127.0.0.1",
  pgPort: postgres.port,
  postgres: "running",
  state: "leader",
  term: term(1),
  promisedTerm: term(1),
  fenceTerm: term(1),
  consistent: true,
  leader: nodeId("n1"),
  region: "local",
  cluster: "main",
  grpcPort: 0,
  httpPort: 0,
  promisedTo: null,
  pid: null,
  inRecovery: false,
  position: null,
  termStartLsn: null,
  oldestLsn: null,
  commitLsn: null,
  receivedLsn: null,
  flushedLsn: null,
  appliedLsn: null,
  rule: null,
  joint: [],
  ruleset: null,
  pending: null,
  receiver: null,
  followers: [],
  quiesced: false,
  waiting: 0,
  systemIdentifier: null,
  seq: 1,
  lastExit: null,
  operatorStopped: false,
  sidecarVersion: "0",
  wasLeader: false,
  clone: null,
  controlAgeMs: 0,
  diskStuckMs: 0,
  incarnation: null,
} satisfies NodeStatus;

type Sidecar = {
  readonly server: SidecarServer;
  readonly connections: ConnectionBudget;
  /** So many times it was asked. */
  readonly renewals: () => number;
};

/** A sidecar's end of leases, in front of the one server. */
async function startSidecar(port = 0): Promise<Sidecar> {
  const connections = new ConnectionBudget({
    reserved: 0,
    configured: budget,
    run: () => null,
    ask: async () => budget,
    leaseMs,
    onError: (error) => t.fail(String(error)),
  });
  let renewals = 0;
  const handlers = {
    getStatus: async () => leads,
    watch: (_: unknown, subscription: { send(status: NodeStatus): void; signal: AbortSignal }) => {
      subscription.send(leads);
      const timer = setInterval(() => subscription.send(leads), 200);
      subscription.signal.addEventListener("abort", () => clearInterval(timer));
    },
    leaseConnections: async ({ ends, ...renewal }) => {
      renewals++;
      if (!ends) return { ok: true, ...(await connections.lease(renewal)) };
      connections.end(renewal.holder);
      return { ok: true, share: 0, expiresMs: 0, budget };
    },
  } as Partial<SidecarHandlers> as SidecarHandlers;
  const server = await startSidecarServer({ host: "127.0.0.1", port, onError: () => undefined }, handlers);
  return { server, connections, renewals: () => renewals };
}

type GatewayUnderLoad = { readonly port: number; end(): Promise<void> };

const configOf = (grpcPort: number, lease: boolean, port = 0, workers = 1) => ({
  listen: { host: "127.0.0.1", port },
  sidecars: [{ host: "127.0.0.1", grpcPort }],
  authentication: { method: "trust" },
  pool: { size: clientsEach },
  budget: { lease, unleased },
  workers,
  log: { level: "error" },
});

async function startHere(test: Test, grpcPort: number, lease = true): Promise<GatewayUnderLoad> {
  const gateway = await startGateway({
    config: parseConfig(configOf(grpcPort, lease)),
    log: createLogger({ name: "gateway", level: "error" }),
  });
  let over = false;
  const end = async (): Promise<void> => {
    if (over) return;
    over = true;
    await gateway.close();
  };
  test.teardown(end);
  return { port: gateway.port, end };
}

/** In a process of its own, with two workers: it can be killed. */
async function startProcess(
  test: Test,
  grpcPort: number,
): Promise<GatewayUnderLoad & { readonly child: ChildProcess; reload(budget: object): Promise<void> }> {
  const directory = mkdtempSync(path.join(tmpdir(), "quorate-lease-"));
  const port = await freePort();
  const file = path.join(directory, "gateway.json");
  writeFileSync(file, JSON.stringify(configOf(grpcPort, true, port, 2)));
  const main = fileURLToPath(new URL("../src/main.ts", import.meta.url));
  const child = spawn(process.execPath, [main, "--config", file], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const end = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
    rmSync(directory, { recursive: true, force: true });
  };
  test.teardown(end);
  const reload = async (changed: object): Promise<void> => {
    writeFileSync(file, JSON.stringify({ ...configOf(grpcPort, true, port, 2), budget: changed }));
    const operator = new pg.Client({ host: "127.0.0.1", port, user: "postgres", database: "quorate" });
    await operator.connect();
    await operator.query("reload");
    await operator.end();
  };
  return { port, end, child, reload };
}

/** Clients that each do one short request after the other. */
class Load {
  readonly #clients: pg.Client[] = [];
  readonly errors: string[] = [];
  readonly #done: Promise<void>[] = [];
  requests = 0;
  #running = true;

  async begin(port: number): Promise<void> {
    for (let each = 0; each < clientsEach; each++) {
      const client = new pg.Client({ host: "127.0.0.1", port, user: "postgres", database: "postgres" });
      client.on("error", () => undefined);
      this.#clients.push(client);
      await client.connect();
      this.#done.push(this.#run(client));
    }
  }

  async #run(client: pg.Client): Promise<void> {
    while (this.#running) {
      try {
        await client.query("select pg_sleep(0.02)");
        this.requests++;
      } catch (error) {
        if (this.#running) this.errors.push(String(error));
        return;
      }
    }
  }

  async end(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#done);
    await Promise.all(this.#clients.map((client) => client.end().catch(() => undefined)));
  }
}

async function open(): Promise<number> {
  const { rows } = await sampler.query<{ count: number }>(
    "select count(*)::int as count from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
  );
  return rows[0]?.count ?? 0;
}

/** The most connections that there were at a time. */
class Watch {
  most = 0;
  now = 0;
  #running = true;
  readonly #done: Promise<void>;

  constructor() {
    this.#done = this.#run();
  }

  async #run(): Promise<void> {
    while (this.#running) {
      this.now = await open();
      this.most = Math.max(this.most, this.now);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async end(): Promise<number> {
    this.#running = false;
    await this.#done;
    return this.most;
  }
}

async function shareOf(port: number): Promise<{ share: number; leased: boolean; used: number }> {
  const console = new pg.Client({ host: "127.0.0.1", port, user: "postgres", database: "quorate" });
  await console.connect();
  const { rows } = await console.query("show leases");
  await console.end();
  const [{ share, leased, used }] = rows as [Record<string, string>];
  return { share: Number(share), leased: leased === "t", used: Number(used) };
}

async function whenListening(port: number): Promise<void> {
  await poll(() => shareOf(port).catch(() => undefined), {
    what: "the gateway to listen",
    timeoutMs: 60_000,
  });
}

t.test("two gateways together never have more than the budget", async (test) => {
  let sidecar = await startSidecar();
  const grpcPort = sidecar.server.port;
  test.teardown(() => sidecar.server.stop());
  const one = await startHere(test, grpcPort);
  const other = await startProcess(test, grpcPort);
  await whenListening(other.port);
  const loads = [new Load(), new Load()] as const;
  const watch = new Watch();
  test.teardown(() => watch.end());

  await loads[0].begin(one.port);
  await poll(async () => (await shareOf(one.port)).used > budget / 2, {
    what: "one to have most",
    timeoutMs: 20_000,
  });
  await loads[1].begin(other.port);
  await poll(
    async () => {
      const shares = await Promise.all([shareOf(one.port), shareOf(other.port)]);
      return shares.every(({ used }) => used >= 7 && used <= 12);
    },
    { what: "both to have about the same", timeoutMs: 30_000 },
  );

  other.child.kill("SIGKILL");
  await loads[1].end();
  await poll(async () => (await shareOf(one.port)).used >= budget - 2, {
    what: "the dead one's share to come back",
    timeoutMs: 30_000,
  });
  test.ok(watch.most <= budget, `at most ${watch.most} of ${budget}`);

  await sidecar.server.stop();
  sidecar = await startSidecar(grpcPort);
  await poll(() => sidecar.connections.leased >= budget - 2, {
    what: "a sidecar that has started anew to learn what was leased",
    timeoutMs: 20_000,
  });
  test.ok(watch.most <= budget, `still at most ${watch.most}`);

  await sidecar.server.stop();
  await poll(async () => !(await shareOf(one.port)).leased, {
    what: "the lease to run out",
    timeoutMs: 20_000,
  });
  await poll(() => watch.now <= unleased, { what: "the rest to be closed", timeoutMs: 20_000 });
  const before = loads[0].requests;
  await poll(() => loads[0].requests > before + clientsEach, { what: "all to be served", timeoutMs: 20_000 });
  sidecar = await startSidecar(grpcPort);
  await poll(async () => (await shareOf(one.port)).used > budget / 2, {
    what: "a lease again",
    timeoutMs: 30_000,
  });
  await loads[0].end();
  test.same(loads[0].errors, [], "no client was told of any of this");
  test.ok((await watch.end()) <= budget, `at most ${watch.most} of ${budget} at any time`);
  await one.end();
  test.equal(sidecar.connections.leased, 0, "who ends gives back what he had");
});

t.test("idle connections of one pool don't starve another", async (test) => {
  const sidecar = await startSidecar();
  test.teardown(() => sidecar.server.stop());
  const gateway = await startHere(test, sidecar.server.port);
  await whenListening(gateway.port);
  await sampler.query("create database other");
  const load = new Load();
  await load.begin(gateway.port);
  await poll(async () => (await shareOf(gateway.port)).used > budget / 2, { what: "use", timeoutMs: 20_000 });
  await load.end();
  const asked = sidecar.renewals();
  await poll(() => sidecar.renewals() > asked + 1, { what: "a quiet gateway to say so", timeoutMs: 20_000 });
  for (let round = 0; round < 3; round++) {
    const startedAtMs = performance.now();
    const at = { host: "127.0.0.1", port: gateway.port, user: "postgres" };
    const clients = ["other", "template1"].map((database) => new pg.Client({ ...at, database }));
    for (const client of clients) {
      await client.connect();
      await client.query("select 1");
    }
    const tookMs = performance.now() - startedAtMs;
    test.ok(tookMs < 5_000, `others are served after ${Math.round(tookMs)} ms`);
    for (const client of clients) await client.end();
  }
});

t.test("RELOAD: with leases or without, and how many without", async (test) => {
  const sidecar = await startSidecar();
  test.teardown(() => sidecar.server.stop());
  const gateway = await startProcess(test, sidecar.server.port);
  await whenListening(gateway.port);
  const untilLeased = (wanted: boolean, share = 0) =>
    poll(
      async () => {
        const seen = await shareOf(gateway.port);
        return seen.leased === wanted && (share === 0 || seen.share === share);
      },
      { what: `a lease: ${wanted}, ${share}`, timeoutMs: 20_000 },
    );
  await untilLeased(true);
  const load = new Load();
  await load.begin(gateway.port);
  await poll(() => sidecar.connections.leased > 0, { what: "a lease", timeoutMs: 20_000 });

  await gateway.reload({ lease: false });
  await untilLeased(false);
  await poll(async () => (await open()) > budget, { what: "more than the budget", timeoutMs: 20_000 });
  test.equal(sidecar.connections.leased, 0, "it has given back what it had");
  await gateway.reload({ lease: true, unleased: 3 });
  await untilLeased(true);
  await poll(async () => (await open()) <= budget, { what: "the rest to be closed", timeoutMs: 20_000 });

  await sidecar.server.stop();
  await untilLeased(false, 3);
  await poll(async () => (await open()) <= 3, { what: "the rest to be closed", timeoutMs: 20_000 });
  await gateway.reload({ lease: true, unleased: 4 });
  await untilLeased(false, 4);
  await poll(async () => (await open()) === 4, { what: "one more", timeoutMs: 20_000 });
  await load.end();
  test.same(load.errors, []);
});

t.test("control: without leases they have more", async (test) => {
  const sidecar = await startSidecar();
  test.teardown(() => sidecar.server.stop());
  const gateways = [
    await startHere(test, sidecar.server.port, false),
    await startHere(test, sidecar.server.port, false),
  ];
  const watch = new Watch();
  test.teardown(() => watch.end());
  const loads = await Promise.all(
    gateways.map(async ({ port }) => {
      const load = new Load();
      await load.begin(port);
      return load;
    }),
  );
  await poll(() => watch.most > budget, { what: "more than the budget", timeoutMs: 30_000 });
  for (const load of loads) await load.end();
  test.ok((await watch.end()) > budget);
});
