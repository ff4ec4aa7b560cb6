/** The second half of `npm start` and `npm test`; scripts/bootstrap.js has installed what is needed to run this. */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import path from "node:path";
import { messageOf } from "@quorate/common";
import { ensurePostgres } from "./build-postgres.ts";
import { repoRoot } from "./lib/repo.ts";
import { runTests } from "./lib/run-tests.ts";

const usage = `Usage: node scripts/setup.ts start [arguments of quorate up] | test [stages or files, see npm test -- --help]

Usually started by npm start and npm test, which install what is missing first.
`;

/** Builds what is missing and becomes \`quorate up\`. */
async function start(args: readonly string[]): Promise<number> {
  await ensurePostgres();
  const main = path.join(repoRoot, "orchestrator/src/main.ts");
  const child = spawn(process.execPath, [main, "up", ...args], { stdio: "inherit" });
  process.on("SIGINT", () => {
    if (!process.stdin.isTTY) child.kill("SIGINT");
  });
  for (const signal of ["SIGTERM", "SIGHUP", "SIGQUIT"] as const) {
    process.on(signal, () => child.kill(signal));
  }
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) =>
      resolve(signal === null ? (code ?? 1) : 128 + constants.signals[signal]),
    );
  });
}

async function main(task: string | undefined, args: readonly string[]): Promise<number> {
  switch (task) {
    case "start":
      return start(args);
    case "test":
      return runTests(args);
    case "--help":
      process.stdout.write(usage);
      return 0;
    default:
      process.stderr.write(usage);
      return 2;
  }
}

const [task, ...args] = process.argv.slice(2);
process.exitCode = await main(task, args).catch((error: unknown) => {
  console.error(`quorate: ${messageOf(error)}`);
  return 1;
});
