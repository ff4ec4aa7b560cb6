/** The fuzzers of the gateway's tests for as long as one likes: seed after seed, on both transports. */
import { spawn } from "node:child_process";
import path from "node:path";
import { messageOf } from "@quorate/common";
import { Command } from "commander";
import { repoRoot } from "../../scripts/lib/repo.ts";

const given = new Command("fuzz:gateway")
  .description("wire and session fuzzers; ends with the first seed that fails, whose output is shown")
  .option("--minutes <count>", "how long", "10")
  .option("--from <seed>", "the first seed", "1000")
  .option("--rounds <count>", "rounds of the wire fuzzer per seed", "600")
  .option("--transports <list>", "native, net", "native,net")
  .parse()
  .opts<{ minutes: string; from: string; rounds: string; transports: string }>();

/** One that isn't there fails. */
const files = ["wire-fuzz", "session-fuzz", "hidden-state", "settings"].map((name) =>
  path.join(repoRoot, "gateway", "test", `${name}.test.ts`),
);

function runOne(file: string, transport: string, seed: number): Promise<{ ok: boolean; output: string }> {
  const env = {
    ...process.env,
    TAP_TIMEOUT: "900",
    GATEWAY_TRANSPORT: transport,
    GATEWAY_FUZZ_SEED: String(seed),
    GATEWAY_FUZZ_ROUNDS: given.rounds,
  };
  const child = spawn(process.execPath, [file], { cwd: repoRoot, env, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString("utf8");
    });
  }
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ ok: code === 0, output }));
  });
}

async function main(): Promise<number> {
  const endMs = Date.now() + Number(given.minutes) * 60_000;
  let runs = 0;
  for (let seed = Number(given.from); Date.now() < endMs; seed++) {
    for (const transport of given.transports.split(",")) {
      for (const file of files) {
        const { ok, output } = await runOne(file, transport, seed);
        runs++;
        if (ok) continue;
        console.error(output);
        console.error(`failed: GATEWAY_TRANSPORT=${transport} GATEWAY_FUZZ_SEED=${seed} node ${file}`);
        return 1;
      }
    }
    console.log(`seed ${seed} is clean, ${runs} runs`);
  }
  return 0;
}

process.exitCode = await main().catch((error: unknown) => {
  console.error(messageOf(error));
  return 1;
});
