/**
 * libpq's own pipeline tests (src/test/modules/libpq_pipeline), unchanged, on a direct connection and through the
 * gateway: `node gateway/scripts/pipeline.ts`. Fails if one fails through the gateway that works directly.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { startTestGateway } from "../test/lib/gateway.ts";
import { startPostgres } from "../test/lib/postgres.ts";

const postgres = await startPostgres();
const gateway = await startTestGateway({ host: "127.0.0.1", port: postgres.port });
const directory = await mkdtemp(path.join(tmpdir(), "gateway-pipeline-"));
try {
  const { sourceTree, bin } = postgres.build;
  const install = path.dirname(bin);
  const program = path.join(directory, "libpq_pipeline");
  const source = path.join(sourceTree, "src/test/modules/libpq_pipeline/libpq_pipeline.c");
  const library = path.join(install, "lib");
  const include = path.join(install, "include");
  const includes = [include, path.join(include, "server"), path.join(include, "internal")];
  await run(
    "cc",
    [
      ...includes.flatMap((each) => ["-I", each]),
      source,
      "-o",
      program,
      `-L${library}`,
      `-Wl,-rpath,${library}`,
      ...["-lpgcommon", "-lpgport", "-lpq", "-lm"],
    ],
    { timeoutMs: 60_000 },
  );
  const { stdout } = await run(program, ["tests"], { timeoutMs: 10_000 });
  const outcome = async (test: string, port: number): Promise<string> => {
    const conninfo = `host=127.0.0.1 port=${port} user=postgres dbname=postgres max_protocol_version=latest`;
    return run(program, [test, conninfo], { timeoutMs: 60_000 }).then(
      () => "ok",
      (error: unknown) => messageOf(error).split("\n").slice(-4).join(" | ").slice(0, 300),
    );
  };
  // It asks pg_stat_activity for the process id of the protocol (docs/gateway-differences.md).
  const knownDifferences = new Set(["cancel"]);
  let worse = 0;
  const names = stdout.trim().split("\n");
  for (const name of names) {
    const direct = await outcome(name, postgres.port);
    const through = await outcome(name, gateway.port);
    if (direct === "ok" && through !== "ok" && !knownDifferences.has(name)) worse++;
    console.log(`${through === "ok" ? "ok    " : "not ok"} ${name}${through === "ok" ? "" : `: ${through}`}`);
    if (direct !== "ok") console.log(`       directly: ${direct}`);
  }
  console.log(`${names.length} tests, ${worse} fail only through the gateway, unexplained`);
  process.exitCode = worse > 0 || names.length === 0 ? 1 : 0;
} finally {
  await gateway.close();
  await postgres.stop();
  await rm(directory, { recursive: true, force: true });
}
