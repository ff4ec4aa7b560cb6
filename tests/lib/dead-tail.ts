// A leader that fills its log without its quorum, and dies.
import { poll } from "@quorate/common";
import type { Test } from "tap";
import type { TestCluster } from "./cluster.ts";
import { withClient } from "./contents.ts";

const moreThanASegment = 17 * 1024 ** 2;

/**
 * The leader, without its quorum, executes `sql`, which fills segments that nobody else has; then it dies, Postgres and
 * sidecar. `afterwards`: while nobody else works yet. None of these segments may ever be archived.
 */
export async function dieWithTail(
  t: Test,
  cluster: TestCluster,
  leader: string,
  sql: string,
  afterwards: () => void = () => undefined,
): Promise<void> {
  const others = cluster.ids.filter((id) => id !== leader);
  for (const id of others) process.kill(cluster.sidecarPid(id), "SIGSTOP");
  try {
    for (const id of others) cluster.killPostgres(id);
    const hopeless = withClient(cluster.url(leader), async (client) => {
      await client.query("set statement_timeout = 0");
      await client.query(sql);
    }).then(
      () => "acknowledged",
      (error: Error) => error.message,
    );
    let ended: string | undefined;
    void hopeless.then((how) => {
      ended = how;
    });
    const tailBytes = await poll(
      async () => {
        if (ended !== undefined) throw new Error(`the transaction has ended: ${ended}`);
        const bytes = await withClient(cluster.superuser(leader, "postgres"), async (client) => {
          await client.query("set quorate.read_proof = none");
          const position =
            "select (pg_current_wal_flush_lsn() - commit_lsn)::bigint as bytes from quorate.status()";
          return Number((await client.query(position)).rows[0]?.bytes);
        });
        return bytes > moreThanASegment ? bytes : undefined;
      },
      { what: "a tail of more than a segment", timeoutMs: 120_000 },
    );
    t.ok(tailBytes > 0, `a tail of ${tailBytes} bytes`);
    process.kill(cluster.sidecarPid(leader), "SIGKILL");
    cluster.killPostgres(leader);
    afterwards();
    t.match(await hopeless, /terminated|closed|reset/, "nobody was told that the tail is committed");
  } finally {
    for (const id of others) process.kill(cluster.sidecarPid(id), "SIGCONT");
  }
}
