/**
 * PostgreSQL's core regression suite, unchanged, through the gateway: `node gateway/scripts/regress.ts [test …]`.
 * Takes about three minutes. Fails if a test fails that docs/gateway-differences.md doesn't explain.
 */
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import path from "node:path";
import { makePostgresTempDirectory, runAsPostgres } from "@quorate/common";
import { startTestGateway } from "../test/lib/gateway.ts";
import { startPostgres } from "../test/lib/postgres.ts";

const knownDifferences = new Set(["guc", "stats", "temp", "event_trigger_login"]);

const prepare = `
create database regression template template0;
alter database regression set lc_messages to 'C';
alter database regression set lc_monetary to 'C';
alter database regression set lc_numeric to 'C';
alter database regression set lc_time to 'C';
alter database regression set bytea_output to 'hex';
alter database regression set timezone_abbreviations to 'Default';
`;

const postgres = await startPostgres({ wal_level: "replica" });
const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port }, { pool: { size: 40 } });
const output = await makePostgresTempDirectory("gateway-regress-");
try {
  await postgres.sql(prepare);
  const source = path.join(postgres.build.sourceTree, "src/test/regress");
  const tests = process.argv.slice(2);
  const { stdout } = await runAsPostgres(
    path.join(source, "pg_regress"),
    [
      "--use-existing",
      `--inputdir=${source}`,
      `--expecteddir=${source}`,
      `--outputdir=${output}`,
      `--bindir=${postgres.build.bin}`,
      `--dlpath=${source}`,
      "--host=127.0.0.1",
      `--port=${gateway.port}`,
      "--user=postgres",
      "--dbname=regression",
      "--max-concurrent-tests=20",
      ...(tests.length > 0 ? tests : [`--schedule=${path.join(source, "parallel_schedule")}`]),
    ],
    { cwd: output, env: { PGTZ: "America/Los_Angeles" }, timeoutMs: 600_000, okCodes: [0, 1] },
  );
  const failed = [...stdout.matchAll(/^not ok \d+\s+[-+] (\S+)/gm)].map((found) => found[1] ?? "");
  const passed = [...stdout.matchAll(/^ok \d+\s/gm)].length;
  const unexplained = failed.filter((name) => !knownDifferences.has(name));
  console.log(
    `${passed} passed, ${failed.length} failed (${failed.join(", ") || "none"}), ${unexplained.length} unexplained`,
  );
  const diffs = path.join(output, "regression.diffs");
  if (unexplained.length > 0 && existsSync(diffs))
    console.log((await readFile(diffs, "utf8")).slice(0, 50_000));
  process.exitCode = unexplained.length > 0 || passed === 0 ? 1 : 0;
} finally {
  await gateway.close();
  await postgres.stop();
  await rm(output, { recursive: true, force: true });
}
