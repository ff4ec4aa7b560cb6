/** PostgreSQL's own core and isolation suites, unchanged. */
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import path from "node:path";
import { makePostgresTempDirectory, runAsPostgres } from "@quorate/common";
import { type Suite, type Target, type Way, withTarget } from "./context.ts";
import { type Known, pgRegressResults, type Results } from "./verdict.ts";

const prepare = (database: string) => `
create database ${database} template template0;
alter database ${database} set lc_messages to 'C';
alter database ${database} set lc_monetary to 'C';
alter database ${database} set lc_numeric to 'C';
alter database ${database} set lc_time to 'C';
alter database ${database} set bytea_output to 'hex';
alter database ${database} set timezone_abbreviations to 'Default';
`;

type Driver = {
  readonly folder: string;
  readonly program: string;
  readonly schedule: string;
  readonly database: string;
  readonly env: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
};

async function drive(driver: Driver, { postgres, port }: Target, tests: readonly string[]): Promise<Results> {
  const output = await makePostgresTempDirectory("gateway-regress-");
  try {
    await postgres.sql(prepare(driver.database));
    const tree = postgres.build.sourceTree;
    const source = path.join(tree, driver.folder);
    const { stdout } = await runAsPostgres(
      path.join(source, driver.program),
      [
        "--use-existing",
        `--inputdir=${source}`,
        `--expecteddir=${source}`,
        `--outputdir=${output}`,
        `--bindir=${postgres.build.bin}`,
        `--dlpath=${path.join(tree, "src/test/regress")}`,
        "--host=127.0.0.1",
        `--port=${port}`,
        "--user=postgres",
        `--dbname=${driver.database}`,
        "--max-concurrent-tests=20",
        ...(tests.length > 0 ? tests : [`--schedule=${path.join(source, driver.schedule)}`]),
      ],
      { cwd: output, env: driver.env, timeoutMs: driver.timeoutMs, okCodes: [0, 1, 2] },
    );
    const diffs = path.join(output, "regression.diffs");
    return pgRegressResults(stdout, existsSync(diffs) ? await readFile(diffs, "utf8") : "");
  } finally {
    await rm(output, { recursive: true, force: true });
  }
}

function suite(
  title: string,
  driver: Driver,
  known: readonly Known[],
  settings: Record<string, string>,
): Suite {
  return {
    title,
    known,
    run: (way: Way, tests) => withTarget(way, settings, (target) => drive(driver, target, tests)),
  };
}

const time = { PGTZ: "America/Los_Angeles" };

export const core = suite(
  "PostgreSQL's core regression suite",
  {
    folder: "src/test/regress",
    program: "pg_regress",
    schedule: "parallel_schedule",
    database: "regression",
    env: time,
    timeoutMs: 900_000,
  },
  [
    {
      test: "guc",
      lines: /plpgsql|^(LINE|DETAIL)/,
      reason: "a library that an earlier client loaded is there already",
    },
    { test: "stats", lines: /^\s*[tf]$/, reason: "pg_stat_database.sessions counts server connections" },
  ],
  { wal_level: "replica" },
);

/** isolationtester compares the process id of the protocol with what locks and activity say: sessions of their own. */
export const isolation = suite(
  "PostgreSQL's isolation suite, with quorate.pool=session",
  {
    folder: "src/test/isolation",
    program: "pg_isolation_regress",
    schedule: "isolation_schedule",
    database: "isolation_regression",
    env: { ...time, PGOPTIONS: "-c quorate.pool=session" },
    timeoutMs: 1_500_000,
  },
  [],
  { wal_level: "logical", max_prepared_transactions: "10" },
);
