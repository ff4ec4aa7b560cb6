/**
 * psycopg2's suite: the source package of the distribution, built against this build's libpq, its tests unchanged.
 * PSYCOPG_SOURCE names a tarball or tree to use instead.
 */
import { existsSync, rmSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { ensurePostgres } from "../../../scripts/build-postgres.ts";
import { type Suite, withTarget } from "./context.ts";
import { sourcePackage } from "./source-package.ts";
import { resultLines } from "./verdict.ts";

/** Runs all tests of a package of unittest, and writes one line of JSON for each. */
const runner = `
import json, sys, unittest
out = open(sys.argv[1], "w")
class Result(unittest.TextTestResult):
    def note(self, test, outcome, detail=""):
        out.write(json.dumps([test.id(), outcome, detail]) + "\\n"); out.flush()
    def addSuccess(self, test): super().addSuccess(test); self.note(test, "ok")
    def addError(self, test, err): super().addError(test, err); self.note(test, "failed", self._exc_info_to_string(err, test))
    def addFailure(self, test, err): super().addFailure(test, err); self.note(test, "failed", self._exc_info_to_string(err, test))
    def addSkip(self, test, reason): super().addSkip(test, reason); self.note(test, "skipped", reason)
names = sys.argv[2:] or ["tests.test_suite"]
suite = unittest.defaultTestLoader.loadTestsFromNames(names)
unittest.TextTestRunner(resultclass=Result, verbosity=0).run(suite)
`;

let built: { readonly directory: string; readonly source: string; readonly library: string } | undefined;

async function build(): Promise<NonNullable<typeof built>> {
  const directory = await mkdtemp(path.join(tmpdir(), "gateway-psycopg-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true })); // both runs use it
  const source = await sourcePackage("psycopg2", "PSYCOPG_SOURCE", directory);
  const { bin } = await ensurePostgres({ flavour: "stock" });
  const env = { PATH: `${bin}:${process.env["PATH"]}` };
  const args = ["setup.py", "-q", "build", "--build-base", path.join(directory, "build")];
  await run("python3", args, { cwd: source, env, timeoutMs: 300_000 });
  const library = (await readdir(path.join(directory, "build"))).find((name) => name.startsWith("lib"));
  if (library === undefined) throw new Error("the build of psycopg2 has made no library");
  return { directory, source, library: path.join(directory, "build", library) };
}

export const psycopg: Suite = {
  title: "psycopg's suite (psycopg2)",
  known: [
    {
      test: "tests.test_connection.TestConnectionInfo.test_backend_pid",
      reason: "the process id of the protocol is of the gateway's making, pg_backend_pid() the server's",
    },
  ],
  async prepare() {
    try {
      await run(
        "python3",
        ["-c", "import sysconfig,os;assert os.path.exists(sysconfig.get_path('include')+'/Python.h')"],
        {
          timeoutMs: 30_000,
        },
      );
    } catch {
      return "python3 with its headers isn't here (Debian: apt-get install python3-dev)";
    }
    try {
      built = await build();
      return undefined;
    } catch (error) {
      return messageOf(error).slice(-500);
    }
  },
  run: (way, tests) =>
    withTarget(way, { max_prepared_transactions: 10 }, async ({ postgres, port }) => {
      if (built === undefined) throw new Error("not prepared");
      const { directory, source, library } = built;
      await postgres.sql("create database psycopg2_test");
      await postgres.sql("create extension if not exists hstore", "psycopg2_test").catch(() => {});
      const file = path.join(directory, `${way}.jsonl`);
      const script = path.join(directory, "runner.py");
      await writeFile(script, runner);
      await rm(file, { force: true });
      const install = path.dirname(postgres.build.bin);
      const { stderr } = await run("python3", [script, file, ...tests], {
        cwd: source,
        env: {
          PYTHONPATH: `${library}:${source}`,
          LD_LIBRARY_PATH: path.join(install, "lib"),
          PSYCOPG2_TESTDB_HOST: "127.0.0.1",
          PSYCOPG2_TESTDB_PORT: String(port),
          PSYCOPG2_TESTDB_USER: "postgres",
          PSYCOPG2_TEST_REPL_DSN: "",
        },
        timeoutMs: 900_000,
        okCodes: [0, 1],
      });
      if (!existsSync(file)) throw new Error(`no test was run: ${stderr.slice(-500)}`);
      return resultLines((await readFile(file, "utf8")).split("\n").filter(Boolean));
    }),
};
