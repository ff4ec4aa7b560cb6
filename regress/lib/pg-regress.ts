/** Runs pg_regress (regress/sql, regress/expected) on a leader that is alone in its cohort. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { run, runAsPostgres } from "@quorate/common";
import { makeCluster } from "./cluster.ts";

/** In this order: the first one creates the extension. */
export const regressTests = ["functions", "settings", "cohort"] as const;

export type RegressResult = {
  readonly ok: boolean;
  /** pg_regress's own report, one line for each test. */
  readonly report: string;
  /** regression.diffs, empty if all is as expected. */
  readonly diffs: string;
};

const regressDirectory = path.join(import.meta.dirname, "..");

export async function runPgRegress(
  tests: readonly string[],
  /** Where to leave the results, else they go with the cluster. */
  keepResults?: string,
): Promise<RegressResult> {
  const cluster = await makeCluster({ nodes: 1 });
  try {
    const server = cluster.node("n1");
    await server.start();
    await cluster.lead("n1", 2, "n1");
    await server.sql("create database contrib_regression");
    const pgxs = (await run(path.join(cluster.bin, "pg_config"), ["--pgxs"])).stdout.trim();
    const pgRegress = path.join(path.dirname(pgxs), "../test/regress/pg_regress");
    const output = path.join(cluster.dir, "regress");
    await runAsPostgres("mkdir", [output]);
    const { code, stdout, stderr } = await runAsPostgres(
      pgRegress,
      [
        `--bindir=${cluster.bin}`,
        `--inputdir=${regressDirectory}`,
        `--expecteddir=${regressDirectory}`,
        `--outputdir=${output}`,
        `--host=${server.socketDirectory}`,
        "--port=5432",
        "--user=postgres",
        "--use-existing",
        "--dbname=contrib_regression",
        ...tests,
      ],
      { okCodes: [0, 1, 2], timeoutMs: 120_000 },
    );
    const diffs = await readFile(path.join(output, "regression.diffs"), "utf8").catch(() => "");
    if (keepResults !== undefined) await run("cp", ["-r", `${output}/results/.`, keepResults]);
    return { ok: code === 0, report: `${stdout}${stderr}`, diffs };
  } finally {
    await cluster.dispose();
  }
}
