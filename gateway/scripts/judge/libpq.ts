/** libpq's own pipeline tests (src/test/modules/libpq_pipeline), unchanged. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import type { PostgresBuild } from "../../../scripts/build-postgres.ts";
import { type Suite, withTarget } from "./context.ts";
import type { TestResult } from "./verdict.ts";

async function compile(build: PostgresBuild, program: string): Promise<void> {
  const install = path.dirname(build.bin);
  const source = path.join(build.sourceTree, "src/test/modules/libpq_pipeline/libpq_pipeline.c");
  const library = path.join(install, "lib");
  const include = path.join(install, "include");
  const includes = [include, path.join(include, "server"), path.join(include, "internal")];
  const search = [`-L${library}`, `-Wl,-rpath,${library}`];
  const libraries = ["-lpgcommon", "-lpgport", "-lpq", "-lm"];
  const args = [...includes.flatMap((each) => ["-I", each]), source, "-o", program, ...search, ...libraries];
  await run("cc", args, { timeoutMs: 60_000 });
}

export const libpq: Suite = {
  title: "libpq's pipeline tests",
  known: [],
  run: (way, tests) =>
    withTarget(way, {}, async ({ postgres, port }) => {
      const directory = await mkdtemp(path.join(tmpdir(), "gateway-pipeline-"));
      try {
        const program = path.join(directory, "libpq_pipeline");
        await compile(postgres.build, program);
        const all = (await run(program, ["tests"], { timeoutMs: 10_000 })).stdout.trim().split("\n");
        const results = new Map<string, TestResult>();
        for (const name of tests.length > 0 ? tests : all) {
          // `cancel` looks for the process id of the protocol in pg_stat_activity.
          const own = name === "cancel" ? " options='-c quorate.pool=session'" : "";
          const conninfo = `host=127.0.0.1 port=${port} user=postgres dbname=postgres max_protocol_version=latest${own}`;
          const outcome = await run(program, [name, conninfo], { timeoutMs: 60_000 }).then(
            (): TestResult => ({ outcome: "ok" }),
            (error: unknown): TestResult => ({ outcome: "failed", detail: messageOf(error).slice(-500) }),
          );
          results.set(name, outcome);
        }
        return results;
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    }),
};
