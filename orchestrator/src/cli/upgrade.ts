// quorate cluster upgrade: the nodes go over to other programs of the same major version, one after the other.
import { existsSync } from "node:fs";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { openCluster, updateBinDir } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { type ChangeOptions, withSession } from "./cohort.ts";
import { betweenSteps } from "./interrupt.ts";
import { rollingRestart } from "./rolling.ts";
import { say } from "./voice.ts";

const versionTimeoutMs = 10_000;

interface Version {
  readonly major: string;
  readonly text: string;
}

/** Of "postgres (PostgreSQL) 18.6 (Debian …)"; undefined if it says something else. */
export function readVersion(output: string): Version | undefined {
  const [, text, major] = /\(PostgreSQL\) ((\d+)\S*)/.exec(output) ?? [];
  return text === undefined || major === undefined ? undefined : { major, text };
}

async function versionOf(binDir: string): Promise<Version> {
  const program = path.join(binDir, "postgres");
  const refuse = (why: string): never => {
    throw orchestratorErrors.error(
      "bad_option",
      `${binDir} can't be used: ${why}; give the bin directory of patched PostgreSQL with the extension`,
    );
  };
  if (!existsSync(program)) return refuse("there is no postgres in it");
  const output = await run(program, ["--version"], { timeoutMs: versionTimeoutMs }).catch((error: unknown) =>
    refuse(messageOf(error)),
  );
  return readVersion(output.stdout) ?? refuse(`postgres --version says "${output.stdout.trim()}"`);
}

/** A data directory belongs to a major version; and other patch releases must understand each other's log, as they do. */
export async function upgradePostgres(dir: string, given: string, options: ChangeOptions): Promise<void> {
  const cluster = openCluster(dir);
  const binDir = path.resolve(given);
  const [before, after] = [await versionOf(cluster.file.binDir), await versionOf(binDir)];
  if (before.major !== after.major)
    throw orchestratorErrors.error(
      "bad_option",
      `this is PostgreSQL ${after.text}, the cluster runs ${before.text}: only another release of the same major version can be gone over to`,
    );
  if (options.dryRun === true) {
    if (options.json !== true) say(`from PostgreSQL ${before.text} to ${after.text} in ${binDir}:`);
  } else {
    await withSession(cluster, async () => undefined);
    // Who starts Postgres from now on, after a crash, say, starts the new one.
    updateBinDir(cluster, binDir);
    betweenSteps();
    say(`from PostgreSQL ${before.text} to ${after.text} in ${binDir}`);
  }
  await rollingRestart(dir, [], options);
}
