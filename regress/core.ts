/**
 * `node regress/core.ts [--nodes N] [--keep]`: PostgreSQL's own core regression suite on the leader of a cohort whose
 * majority must confirm every commit; then the dumps of all nodes must be equal.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { messageOf, runAsPostgres } from "@quorate/common";
import { Command } from "commander";
import { ensurePostgres } from "../scripts/build-postgres.ts";
import { type Cluster, makeCluster, type Server } from "./lib/cluster.ts";
import { untilAllApplied } from "./lib/verify.ts";

const settings = [
  "max_wal_size = 1GB",
  "wal_keep_size = 4GB",
  "max_standby_streaming_delay = -1",
  "log_min_messages = warning",
];

async function dump(cluster: Cluster, server: Server): Promise<string> {
  const { stdout } = await runAsPostgres(
    path.join(cluster.bin, "pg_dumpall"),
    [
      ...["--no-sync", "--no-statistics", "--no-unlogged-table-data", "--restrict-key=test"],
      ...["-h", server.socketDirectory, "-p", "5432", "-U", "postgres"],
    ],
    { timeoutMs: 300_000, maxOutputBytes: 256 << 20 },
  );
  return stdout;
}

/** Returns what is wrong, nothing if all is well. */
async function suite(cluster: Cluster, sourceTree: string): Promise<string[]> {
  const [leader, ...followers] = cluster.servers;
  if (leader === undefined) throw new Error("no node");
  for (const server of cluster.servers) await server.start();
  const ids = cluster.servers.map(({ id }) => id);
  const majority = `${Math.floor(ids.length / 2) + 1}(${ids.join(",")})`;
  await cluster.lead(leader.id, 2, majority, ids.slice(1));

  const input = path.join(sourceTree, "src/test/regress");
  const output = path.join(cluster.dir, "regress");
  await runAsPostgres("mkdir", [output]);
  const result = await runAsPostgres(
    path.join(input, "pg_regress"),
    [
      `--bindir=${cluster.bin}`,
      `--dlpath=${input}`,
      `--inputdir=${input}`,
      `--expecteddir=${input}`,
      `--outputdir=${output}`,
      `--schedule=${path.join(input, "parallel_schedule")}`,
      ...[`--host=${leader.socketDirectory}`, "--port=5432", "--user=postgres", "--max-connections=8"],
    ],
    {
      okCodes: [0, 1],
      timeoutMs: 3_600_000,
      env: { LC_ALL: "C" },
      onOutput: (text) => process.stdout.write(text),
    },
  );
  const wrong: string[] = [];
  if (result.code !== 0) wrong.push(await readFile(path.join(output, "regression.diffs"), "utf8"));

  // A follower's sequences may be ahead, as after a crash: each is logged some values in advance.
  const client = await leader.connect("", "regression");
  await client.query("select setval(seqrelid, nextval(seqrelid)) from pg_sequence");
  await untilAllApplied(leader, cluster.servers);
  const expected = await dump(cluster, leader);
  for (const follower of followers) {
    const same = (await dump(cluster, follower)) === expected;
    console.log(`${follower.id}: dump of ${expected.length} characters is ${same ? "equal" : "DIFFERENT"}`);
    if (!same) wrong.push(`${follower.id} differs from the leader`);
  }
  return wrong;
}

async function main(): Promise<void> {
  const command = new Command("core")
    .option("--nodes <n>", "size of the cohort", "3")
    .option("--keep", "leave the data directories")
    .parse();
  const options = command.opts<{ nodes: string; keep?: boolean }>();
  const sourceTree = process.env["QUORATE_TEST_SOURCE"] ?? (await ensurePostgres()).sourceTree;
  const cluster = await makeCluster({ nodes: Number(options.nodes), settings });
  try {
    const wrong = await suite(cluster, sourceTree);
    for (const each of wrong) console.log(each);
    if (wrong.length > 0) process.exitCode = 1;
  } finally {
    if (options.keep !== true) await cluster.dispose();
  }
}

await main().catch((error: unknown) => {
  console.error(`core: ${messageOf(error)}`);
  process.exitCode = 1;
});
