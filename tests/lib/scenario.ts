// A cluster under load, something happens to it, and afterwards every claim is checked.
import type { Test } from "tap";
import { AppendClient } from "./append-client.ts";
import { createAppendLog, forEach, judgeCluster } from "./checks.ts";
import { TestCluster, type TestClusterOptions } from "./cluster.ts";
import { Pgbench } from "./pgbench.ts";

export interface Scenario {
  readonly cluster: TestCluster;
  readonly append: AppendClient;
  readonly pgbench: Pgbench;
  /** As they were before anything happened. */
  readonly identities: Readonly<Record<string, string>>;
}

const firstAckTimeoutMs = 30_000;

/** Resolves at the next acknowledged row; rejects when none comes in time. */
export async function nextAck(append: AppendClient, timeoutMs = firstAckTimeoutMs): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no row was acknowledged for ${timeoutMs} ms`)), timeoutMs);
  });
  await Promise.race([append.ackAfter(), late]).finally(() => clearTimeout(timer));
}

function identitiesOf(cluster: TestCluster): Record<string, string> {
  const copies = (id: string): number =>
    cluster.log(id, "sidecar").split("copying the data directory").length - 1;
  return Object.fromEntries(
    cluster.ids.map((id) => [id, `${cluster.dataIdentity(id)}, copied ${copies(id)} times`]),
  );
}

async function underLoad(test: Test, options: TestClusterOptions): Promise<Scenario> {
  const cluster = await TestCluster.start(test, options);
  await cluster.waitUntilWhole();
  await createAppendLog(cluster);
  const pgbench = new Pgbench(cluster);
  await pgbench.initialize();
  const append = new AppendClient(() => cluster.urls);
  pgbench.start();
  append.start();
  test.teardown(async () => {
    await append.stop();
    await pgbench.stop();
  });
  await nextAck(append);
  return { cluster, append, pgbench, identities: identitiesOf(cluster) };
}

/** No node was copied anew, and no pg_rewind was run: each has the data directory that it had. */
export function checkNotCopied(test: Test, { cluster, identities }: Scenario): void {
  test.same(identitiesOf(cluster), identities, "nobody's data directory was copied or made anew");
  for (const id of cluster.ids)
    test.notMatch(cluster.log(id, "sidecar"), /pg_rewind/, `${id} was not rewound`);
}

export async function scenario(
  test: Test,
  happen: (scenario: Scenario) => Promise<void>,
  options: TestClusterOptions = {},
): Promise<Scenario> {
  const under = await underLoad(test, options);
  const { cluster, append, pgbench } = under;
  await happen(under);
  await nextAck(append);
  await append.stop();
  await pgbench.stop();
  const verdict = await judgeCluster(cluster, [append]);
  test.ok(
    append.acks.length > 0,
    `${append.acks.length} rows acknowledged, ${append.inDoubt.length} in doubt`,
  );
  test.same(verdict.lost, forEach(cluster, []), "every acknowledged row is on every node");
  test.same(verdict.unexplained, forEach(cluster, []), "no row came from nowhere");
  const first = verdict.contents[cluster.ids[0] ?? ""];
  test.ok(Object.keys(first ?? {}).length >= 5, "there is something to compare");
  test.same(verdict.contents, forEach(cluster, first), "all nodes hold the same");
  test.same(verdict.damage, forEach(cluster, []), "amcheck finds nothing");
  return under;
}
