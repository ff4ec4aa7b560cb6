/**
 * Failover after failover under load, with kill -9: inserts whose acknowledgement is remembered, a transaction that is
 * never finished, DDL and checkpoints. After each round all nodes hold the same, no acknowledged and no seen row is
 * missing, and amcheck finds nothing.
 *
 * QUORATE_LOOP_ROUNDS (3) rounds; QUORATE_LOOP_SEED replays the choices, though not the timing.
 */
import { poll } from "@quorate/common";
import type pg from "pg";
import { test } from "tap";
import { amcheck, contentsOf } from "../../tests/lib/contents.ts";
import { type Cluster, expectOk, makeCluster, type Server } from "../lib/cluster.ts";
import type { Position } from "../lib/control.ts";

const rounds = Number(process.env["QUORATE_LOOP_ROUNDS"] ?? 3);
const seed = Number(process.env["QUORATE_LOOP_SEED"] ?? Date.now() % 100_000);
const rule = "2(n1,n2,n3)";

function random(state: { seed: number }, below: number): number {
  state.seed = (Math.imul(state.seed, 1664525) + 1013904223) >>> 0;
  return (state.seed >>> 8) % below;
}

type Load = { readonly stop: () => Promise<void> };

/** What clients know: rows that were acknowledged, rows that somebody has seen. */
type Known = { nextId: number; readonly acknowledged: Set<number>; seen: number; statements: number };

/** Each client goes on until its connection breaks or the load is stopped. */
async function startLoad(leader: Server, known: Known): Promise<Load> {
  let stopped = false;
  const loops: Promise<void>[] = [];
  const start = async (body: (client: pg.Client) => Promise<void>) => {
    const client = await leader.connect();
    loops.push(
      (async () => {
        try {
          while (!stopped) {
            await body(client);
            known.statements += 1;
          }
        } catch {
          // the leader was killed: whatever was under way has an unknown outcome
        }
      })(),
    );
  };
  for (let i = 0; i < 6; i++)
    await start(async (client) => {
      const id = known.nextId++;
      await client.query("insert into ack values ($1, repeat('x', 200))", [id]);
      known.acknowledged.add(id);
    });
  await start(async (client) => {
    const { rows } = await client.query<{ id: number | null }>("select max(id) as id from ack");
    known.seen = Math.max(known.seen, rows[0]?.id ?? 0);
  });
  await start((client) =>
    client.query("update big set b = b + 1 where a % 7 = $1", [known.nextId % 7]).then(),
  );
  await start(async (client) => {
    const name = `ddl_${known.nextId++}`;
    await client.query(
      `create table ${name} as select g as a, repeat('y', 50) as b from generate_series(1, 300) g`,
    );
    await client.query(`create index on ${name} (a)`);
    if (known.nextId % 3 === 0) await client.query(`truncate ${name}`);
    if (known.nextId % 2 === 0) await client.query(`drop table ${name}`);
  });
  await start((client) => client.query("checkpoint").then());
  const open = await leader.connect();
  await open.query("begin");
  await open.query("update big set b = -1 where a < 5000");
  return {
    stop: async () => {
      stopped = true;
      await Promise.all(loops);
    },
  };
}

const lsn = ({ term, lsn: text }: Position): [number, bigint] => {
  const [hi, lo] = text.split("/").map((part) => BigInt(`0x${part}`));
  return [term, ((hi ?? 0n) << 32n) | (lo ?? 0n)];
};

function isBefore(a: Position, b: Position): boolean {
  const [termA, lsnA] = lsn(a);
  const [termB, lsnB] = lsn(b);
  return termA < termB || (termA === termB && lsnA < lsnB);
}

/** What a coordinator does: recruit who is there, elect one, which fetches first if it isn't the most advanced. */
async function changeLeader(cluster: Cluster, candidate: Server, other: Server, term: number): Promise<void> {
  const mine = expectOk(await candidate.ask({ cmd: "fence", term })).position;
  const theirs = expectOk(await other.ask({ cmd: "fence", term })).position;
  if (mine && theirs && isBefore(mine, theirs)) {
    const conninfo = other.conninfoFor(candidate.id);
    expectOk(await candidate.ask({ cmd: "fetch", term, from: other.id, conninfo, target: theirs }));
  }
  await cluster.lead(candidate.id, term, rule, [other.id]);
  await poll(() => candidate.value("select 1").catch(() => undefined), {
    what: `${candidate.id} to admit clients`,
    timeoutMs: 20_000,
  });
}

test(`${rounds} rounds, seed ${seed}`, async (t) => {
  const state = { seed };
  const cluster = await makeCluster({
    nodes: 3,
    settings: ["shared_buffers = 8MB", "max_wal_size = 256MB", "wal_keep_size = 1GB"],
  });
  t.teardown(() => cluster.dispose());
  for (const server of cluster.servers) await server.start();
  await cluster.lead("n1", 2, rule, ["n2", "n3"]);
  let leader = cluster.node("n1");
  await leader.sql(`
    create extension amcheck;
    create table ack (id int primary key, filler text);
    create table big (a int primary key, b int, c text);
    insert into big select g, 0, repeat('z', 100) from generate_series(1, 20000) g;
    create index on big (b)`);

  const known: Known = { nextId: 1, acknowledged: new Set(), seen: 0, statements: 0 };
  let term = 2;
  for (let round = 1; round <= rounds; round++) {
    const goal = known.acknowledged.size + 100 + random(state, 300);
    const load = await startLoad(leader, known);
    await poll(() => known.acknowledged.size >= goal, {
      what: `${goal} acknowledged rows`,
      timeoutMs: 60_000,
    });
    await leader.kill9();
    await load.stop();

    term += 1 + random(state, 20);
    const others = cluster.servers.filter(({ id }) => id !== leader.id);
    const [candidate, other] = random(state, 2) === 0 ? others : others.reverse();
    if (candidate === undefined || other === undefined) throw new Error("three nodes are needed");
    if (random(state, 3) === 0) {
      await other.kill9();
      await other.start();
    }
    await changeLeader(cluster, candidate, other, term);
    const old = leader;
    leader = candidate;
    await old.start();
    await cluster.follow(old.id, leader.id, term);
    await leader.sql(`insert into ack values (-${round}, '')`);
    const { commitLsn } = await leader.status();
    for (const each of [old, other])
      await poll(
        async () =>
          (await each
            .value(`select (pg_last_wal_replay_lsn() >= '${commitLsn}')::text`)
            .catch(() => undefined)) === "true",
        { what: `${each.id} to apply ${commitLsn}`, timeoutMs: 30_000 },
      );

    const rows = await leader.sql("select id from ack");
    const present = new Set(rows.map(([id]) => Number(id)));
    const lost = [...known.acknowledged].filter((id) => !present.has(id));
    t.same(lost, [], `round ${round}: term ${term}, ${known.acknowledged.size} acknowledged rows are there`);
    t.ok(known.seen === 0 || present.has(known.seen), `row ${known.seen}, which was seen, is there`);
    const target = (server: Server) => ({
      host: server.socketDirectory,
      port: 5432,
      user: "postgres",
      database: "postgres",
    });
    const expected = await contentsOf(target(leader));
    for (const each of cluster.servers) {
      t.same(await contentsOf(target(each)), expected, `${each.id} holds the same`);
      t.same(await amcheck(target(each)), [], `${each.id}: amcheck`);
    }
  }
});
