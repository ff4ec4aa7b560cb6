/**
 * psycopg 3's suite, unchanged, with its implementation in Python and this build's libpq. PSYCOPG3_SOURCE names a tree
 * or tarball to use instead of the distribution's source package; pytest and anyio are the distribution's.
 */
import { existsSync, rmSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { admit, type Suite, withTarget } from "./context.ts";
import { pythonPackages, sourcePackage } from "./source-package.ts";
import { resultLines } from "./verdict.ts";

const packages = [
  "pytest",
  "pluggy",
  "iniconfig",
  "packaging",
  "anyio",
  "sniffio",
  "idna",
  "typing-extensions",
];

/**
 * Tests that end a connection's process by the process id that the protocol has told, or look for it on the server:
 * they are run with a server connection of their own for each connection.
 */
const ownSessions: readonly string[] = ["", "_async"].flatMap((kind) => [
  `pool/test_pool${kind}.py::test_connect_no_check`,
  `pool/test_pool${kind}.py::test_connect_check`,
  `pool/test_pool${kind}.py::test_getconn_check`,
  `pool/test_pool${kind}.py::test_stats_check`,
  `pool/test_pool_common${kind}.py::test_check_connection`,
  `test_concurrency${kind}.py::test_concurrent_close`,
  `test_concurrency${kind}.py::test_ctrl_c`,
  `test_connection${kind}.py::test_broken`,
  `test_connection${kind}.py::test_context_inerror_rollback_no_clobber`,
  `test_connection${kind}.py::test_right_exception_on_server_disconnect`,
  `test_transaction${kind}.py::test_context_inerror_rollback_no_clobber`,
]);

/** A plugin of pytest: which tests are this run's, one line of JSON for each, and an end to one that hangs. */
const plugin = `
import json, os, signal, pytest
out = open(os.environ["JUDGE_RESULTS"], "a")
own = json.loads(os.environ["JUDGE_OWN_SESSIONS"])
wanted = os.environ["JUDGE_RUN"] == "own"
def pytest_collection_modifyitems(config, items):
    items[:] = [i for i in items if (i.nodeid.split("[")[0].removeprefix("tests/") in own) == wanted]
def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcome = {"passed": "ok"}.get(report.outcome, report.outcome)
        out.write(json.dumps([report.nodeid, outcome, report.longreprtext if outcome == "failed" else ""]) + "\\n")
        out.flush()
def expired(number, frame): raise TimeoutError("no end after 60 s")
signal.signal(signal.SIGALRM, expired)
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    signal.alarm(60)
    yield
    signal.alarm(0)
`;

/**
 * Not run: durations (a busy machine fails them), memory, types, another database; and what interrupts a process by a
 * timer, which may strike when Python is about to end (without the gateway as well).
 */
const which = ["-m", "not timing", "-k", "not leak and not fetch_memory and not eintr"].concat(
  ["tests/test_typing.py", "tests/crdb"].map((name) => `--ignore=${name}`),
);

let prepared: { readonly directory: string; readonly source: string; readonly python: string } | undefined;

async function prepare(): Promise<NonNullable<typeof prepared>> {
  const directory = await mkdtemp(path.join(tmpdir(), "gateway-psycopg3-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true })); // both runs use it
  const source = await sourcePackage("psycopg3", "PSYCOPG3_SOURCE", directory);
  if (!existsSync(path.join(source, "tests/conftest.py")))
    throw new Error(`no tests/conftest.py in ${source}`);
  const python = await pythonPackages(
    packages.map((name) => `python3-${name}`),
    directory,
  );
  await writeFile(path.join(directory, "judge_plugin.py"), plugin);
  return { directory, source, python };
}

export const psycopg3: Suite = {
  title: "psycopg 3's suite",
  known: [
    {
      test: /^tests\/test_pipeline(_async)?\.py::test_prepared\b/,
      reason:
        "asked for in the middle of a pipeline, pg_prepared_statements shows the names that clients share",
    },
  ],
  async prepare() {
    try {
      prepared = await prepare();
      return undefined;
    } catch (error) {
      return messageOf(error).slice(-500);
    }
  },
  run: (way, tests) =>
    withTarget(
      way,
      { max_prepared_transactions: 10 },
      async ({ postgres, port }) => {
        if (prepared === undefined) throw new Error("not prepared");
        const { directory, source, python } = prepared;
        await postgres.sql("create database psycopg3_test");
        await postgres.sql("alter role postgres password 'judge'");
        // Behind the gateway it is the gateway that asks for it.
        if (way === "direct")
          await admit(
            postgres,
            ["all", "replication"].map((what) => `host ${what} all 127.0.0.1/32 scram-sha-256`),
          );
        await postgres.sql("select pg_reload_conf()");
        const file = path.join(directory, `${way}.jsonl`);
        await rm(file, { force: true });
        const options = ["-q", "-p", "anyio", "-p", "judge_plugin", "-o", `cache_dir=${directory}/cache`];
        const folders = [
          python,
          directory,
          path.join(source, "psycopg"),
          path.join(source, "psycopg_pool"),
          source,
        ];
        const dsn = `host=127.0.0.1 port=${port} user=postgres password=judge dbname=psycopg3_test`;
        // Without the machine's own packages (-S), of which pytest would load the plugins. 5: no test is this run's.
        for (const [kind, more] of [
          ["shared", ""],
          ["own", " options='-c quorate.pool=session'"],
        ] as const)
          await run("python3", ["-S", "-m", "pytest", ...options, ...which, ...tests], {
            cwd: source,
            env: {
              PYTHONPATH: folders.join(":"),
              PYTHONDONTWRITEBYTECODE: "1",
              LD_LIBRARY_PATH: path.join(path.dirname(postgres.build.bin), "lib"),
              PSYCOPG_IMPL: "python",
              PSYCOPG_TEST_DSN: dsn + more,
              JUDGE_RESULTS: file,
              JUDGE_RUN: kind,
              JUDGE_OWN_SESSIONS: JSON.stringify(ownSessions),
            },
            timeoutMs: 1_800_000,
            okCodes: [0, 1, 5],
          });
        if (!existsSync(file)) throw new Error("no test was run");
        return resultLines((await readFile(file, "utf8")).split("\n").filter(Boolean));
      },
      { gateway: { authentication: { method: "scram" } } },
    ),
};
