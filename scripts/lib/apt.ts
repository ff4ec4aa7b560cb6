/**
 * Packages of newer suites of the distribution than the installed one, without touching the system: a temporary
 * sources list and private state, made from where apt itself gets its packages (mirror, keys, proxy).
 */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { commonErrors, run } from "@quorate/common";

export type AptTarget = {
  readonly uri: string;
  readonly suite: string;
  readonly signedBy: string;
};

const fallbackKeyring =
  ["pgp", "gpg"]
    .map((suffix) => `/usr/share/keyrings/debian-archive-keyring.${suffix}`)
    .find((file) => existsSync(file)) ?? "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Parses `apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(SIGNED_BY)|$(ORIGIN)|$(COMPONENT)'`. */
export function parseTargets(output: string): AptTarget[] {
  const targets: AptTarget[] = [];
  for (const line of output.split("\n")) {
    const [uri, suite, signedBy, origin, component] = line.split("|");
    if (uri === undefined || suite === undefined || origin !== "Debian" || component !== "main") continue;
    // A security or updates archive carries no other suites.
    if (/[-/](security|updates|backports)/.test(suite) || /security/.test(uri)) continue;
    targets.push({ uri, suite, signedBy: signedBy?.startsWith("/") ? signedBy : fallbackKeyring });
  }
  return targets;
}

/** The list for other suites of the archive that the system uses. */
export function sourcesList(target: AptTarget, kind: "deb" | "deb-src", suites: readonly string[]): string {
  const option = `[signed-by=${target.signedBy}]`;
  return suites.map((suite) => `${kind} ${option} ${target.uri} ${suite} main\n`).join("");
}

export type PrivateApt = {
  /** The archive's address, for messages. */
  readonly archive: string;
  readonly aptGet: (args: readonly string[], cwd?: string) => Promise<string>;
  readonly aptCache: (args: readonly string[]) => Promise<string>;
};

/** The Debian archive that this machine gets its packages from. */
export async function systemTarget(): Promise<AptTarget> {
  if (!existsSync("/usr/bin/apt-get")) throw new Error("there is no apt on this system");
  const format = "$(REPO_URI)|$(RELEASE)|$(SIGNED_BY)|$(ORIGIN)|$(COMPONENT)";
  const args = ["indextargets", "--format", format, "Created-By: Packages"];
  const { stdout } = await run("apt-get", args, { timeoutMs: 60_000 });
  const target = parseTargets(stdout)[0];
  if (target === undefined) {
    throw new Error("apt knows no Debian archive on this system (has `apt-get update` ever run?)");
  }
  return target;
}

/** Runs `work` with an apt that sees only these suites; everything it leaves behind is removed. */
export async function withPrivateApt<T>(
  kind: "deb" | "deb-src",
  suites: readonly string[],
  work: (apt: PrivateApt) => Promise<T>,
): Promise<T> {
  const target = await systemTarget();
  const directory = await mkdtemp(path.join(tmpdir(), "quorate-apt-"));
  try {
    await mkdir(path.join(directory, "lists/partial"), { recursive: true });
    await mkdir(path.join(directory, "cache/archives/partial"), { recursive: true });
    await writeFile(path.join(directory, "sources.list"), sourcesList(target, kind, suites));
    await writeFile(path.join(directory, "status"), "");
    const settings = [
      `Dir::Etc::sourcelist=${directory}/sources.list`,
      "Dir::Etc::sourceparts=/dev/null",
      "Dir::Etc::preferencesparts=/dev/null",
      `Dir::State=${directory}`,
      `Dir::State::lists=${directory}/lists`,
      `Dir::State::status=${directory}/status`,
      `Dir::Cache=${directory}/cache`,
      "APT::Sandbox::User=",
      "Acquire::Languages=none",
      "Acquire::Retries=2",
    ].flatMap((setting) => ["-o", setting]);
    const env = { LC_ALL: "C.UTF-8", DEBIAN_FRONTEND: "noninteractive" };
    const call = async (program: string, args: readonly string[], cwd = directory, okCodes = [0]) => {
      const options = { env, cwd, okCodes, timeoutMs: 300_000 };
      return (await run(program, ["-q", ...settings, ...args], options)).stdout;
    };
    // 100: some suite is missing in this archive. Whether what we want is there shows below.
    await call("apt-get", ["update"], directory, [0, 100]);
    if ((await readdir(path.join(directory, "lists"))).every((name) => !/_(Sources|Packages)/.test(name))) {
      throw commonErrors.error("command_failed", `no package list could be fetched from ${target.uri}`);
    }
    return await work({
      archive: `${target.uri} (${suites.join(", ")})`,
      aptGet: (args, cwd) => call("apt-get", args, cwd),
      aptCache: (args) => call("apt-cache", args),
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
