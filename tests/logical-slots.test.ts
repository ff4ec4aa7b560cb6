// A consumer of logical changes (failover slot) goes on at every next leader: nothing is missing, and what comes again
// is the end of what it had already got. Also when an ex-leader comes back with the slot that it made itself.
import { poll } from "@quorate/common";
import t from "tap";
import { quorate, TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";

const slot = "cdc";

/** Reads the slot on whoever leads, as any consumer of changes does. */
class Consumer {
  readonly rows: number[] = [];
  readonly #cluster: TestCluster;
  #sent = 0;

  constructor(cluster: TestCluster) {
    this.#cluster = cluster;
  }

  get sent(): number {
    return this.#sent;
  }

  async insert(leader: string): Promise<void> {
    await withClient(this.#cluster.url(leader), (client) =>
      client.query("insert into changes values ($1)", [this.#sent + 1]),
    );
    this.#sent += 1;
  }

  /** Gets what there is, and confirms it. */
  async consume(leader: string): Promise<number[]> {
    const { rows } = await withClient(this.#cluster.superuser(leader), (client) =>
      client.query<{ data: string }>(`select data from pg_logical_slot_get_changes('${slot}', null, null)`),
    );
    const found = rows.flatMap(({ data }) => {
      const row = /INSERT: a\[integer\]:(\d+)/.exec(data)?.[1];
      return row === undefined ? [] : [Number(row)];
    });
    this.rows.push(...found);
    return found;
  }
}

const copied = `select coalesce(bool_and(synced and not temporary and invalidation_reason is null), false) as good
  from pg_replication_slots where slot_name = '${slot}'`;

/** A copy is good once the original has moved on behind it, so there is some traffic meanwhile. */
async function untilCopied(cluster: TestCluster, consumer: Consumer, leader: string): Promise<void> {
  await poll(
    async () => {
      await consumer.insert(leader);
      await consumer.consume(leader);
      const followers = cluster.ids.filter((id) => id !== leader);
      const good = await Promise.all(
        followers.map((id) =>
          withClient(cluster.superuser(id), async (client) => (await client.query(copied)).rows[0]?.good),
        ),
      );
      return good.every((each) => each === true);
    },
    { what: "good copies of the slot on every follower", timeoutMs: 90_000, intervalMs: 250 },
  );
}

t.test("a logical slot with failover outlives a kill and a switchover", async (t) => {
  const cluster = await TestCluster.start(t, { nodes: 3 });
  const first = await cluster.leader();
  await withClient(cluster.url(first), (client) => client.query("create table changes (a int)"));
  await withClient(cluster.superuser(first), (client) =>
    client.query(`select pg_create_logical_replication_slot('${slot}', 'test_decoding', failover => true)`),
  );
  const consumer = new Consumer(cluster);
  const goesOn = async (leader: string): Promise<void> => {
    const before = consumer.rows.length;
    await consumer.insert(leader);
    const found = await consumer.consume(leader);
    const again = found.slice(0, -2);
    t.same(found.slice(-2), [consumer.sent - 1, consumer.sent], `on ${leader} nothing is missing`);
    t.same(again, consumer.rows.slice(before - again.length, before), "what comes again came last before");
    consumer.rows.length = 0;
    consumer.rows.push(...Array.from({ length: consumer.sent }, (_, i) => i + 1));
  };

  await untilCopied(cluster, consumer, first);
  t.same(
    consumer.rows,
    Array.from({ length: consumer.sent }, (_, i) => i + 1),
    "each once, in order",
  );
  await consumer.insert(first); // nobody got this one yet
  cluster.killPostgres(first);
  const second = await cluster.waitForLeader((id) => id !== first);
  await goesOn(second);

  await cluster.waitUntilWhole();
  await untilCopied(cluster, consumer, second);
  t.match(cluster.log(first, "sidecar"), /dropped the slot of the time when this node led/);
  await consumer.insert(second);
  const run = await quorate("switchover", "--to", first, "--dir", cluster.dir);
  t.equal(run.code, 0, run.stderr);
  await cluster.waitForLeader((id) => id === first);
  await goesOn(first);

  const { rows } = await withClient(cluster.superuser(first), (client) =>
    client.query("select restart_lsn from pg_replication_slots where slot_type = 'physical'"),
  );
  t.same(rows, [{ restart_lsn: null }], "the copier's slot holds no log back");
});
