/**
 * Carries out the steps of Dockerfile.postgres without a container engine: each stage in an empty Debian root made by
 * debootstrap, by chroot. Then starts the programs of the last stage. Needs root.
 */
import { existsSync } from "node:fs";
import { copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { Command } from "commander";
import { systemTarget } from "./lib/apt.ts";
import { expand, type Instruction, parseDockerfile, type Stage } from "./lib/dockerfile.ts";
import { terminalProgress } from "./lib/progress.ts";
import { repoRoot } from "./lib/repo.ts";

type Root = {
  readonly directory: string;
  env: Record<string, string>;
  workdir: string;
  user: string;
};

const progress = terminalProgress("image");
const basePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** `debian:trixie-slim` by debootstrap, from the mirror that this machine uses, with its network settings. */
async function makeRoot(image: string, directory: string): Promise<Root> {
  const suite = /^debian:(\w+)-slim$/.exec(image)?.[1];
  if (suite === undefined) throw new Error(`no way to make a root of ${image}`);
  progress(`making a root of ${image}`);
  const { uri } = await systemTarget();
  const args = ["--variant=minbase", `--include=ca-certificates`, suite, directory, uri];
  await run("debootstrap", args, { timeoutMs: 900_000 });
  await copyFile("/etc/resolv.conf", path.join(directory, "etc/resolv.conf")).catch(() => undefined);
  const env: Record<string, string> = { PATH: basePath };
  // What a build behind a proxy would be given by the engine.
  const certificates = process.env["NODE_EXTRA_CA_CERTS"];
  if (certificates !== undefined && existsSync(certificates)) {
    await mkdir(path.join(directory, "opt/host"), { recursive: true });
    await copyFile(certificates, path.join(directory, "opt/host/ca.crt"));
    env["NODE_EXTRA_CA_CERTS"] = "/opt/host/ca.crt";
    env["NPM_CONFIG_CAFILE"] = "/opt/host/ca.crt";
  }
  env["NPM_CONFIG_REGISTRY"] = (await run("npm", ["config", "get", "registry"])).stdout.trim();
  const settings = (await run("apt-config", ["dump"])).stdout.split("\n");
  const network = settings.filter((line) => /^Acquire::(Check-|https?::)/.test(line));
  await writeFile(path.join(directory, "etc/apt/apt.conf.d/99host"), `${network.join("\n")}\n`);
  for (const name of ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  await run("mount", ["--rbind", "/dev", path.join(directory, "dev")]);
  await run("mount", ["--make-rslave", path.join(directory, "dev")]);
  await run("mount", ["-t", "proc", "proc", path.join(directory, "proc")]);
  return { directory, env, workdir: "/", user: "root" };
}

async function unmount(directory: string): Promise<void> {
  for (const name of ["proc", "dev"]) {
    const options = { okCodes: [0, 1, 32] };
    await run("umount", ["--recursive", "--lazy", path.join(directory, name)], options);
  }
}

async function inRoot(root: Root, script: string, timeoutMs = 3_600_000): Promise<string> {
  const args = [`--userspec=${root.user}`, root.directory, "/usr/bin/env", "-i"];
  const env = Object.entries(root.env).map(([name, value]) => `${name}=${value}`);
  const shell = ["/bin/sh", "-c", `cd ${root.workdir} && ${script}`];
  return (await run("chroot", [...args, "HOME=/root", ...env, ...shell], { timeoutMs })).stdout;
}

async function copyIn(
  root: Root,
  instruction: Extract<Instruction, { kind: "copy" }>,
  roots: Map<string, Root>,
) {
  const target = path.join(root.directory, path.resolve(root.workdir, instruction.target));
  if (instruction.from !== undefined) {
    const from = roots.get(instruction.from);
    if (from === undefined) throw new Error(`no stage ${instruction.from}`);
    await mkdir(path.dirname(target), { recursive: true });
    await run("cp", ["-a", "-T", path.join(from.directory, instruction.source), target]);
    return;
  }
  if (instruction.source !== ".") throw new Error(`unknown form: COPY ${instruction.source}`);
  // The build's context: what is in the repository.
  const { stdout } = await run("git", ["-C", repoRoot, "ls-files", "-z"]);
  for (const file of stdout.split("\0")) {
    const source = path.join(repoRoot, file);
    if (file === "" || !existsSync(source)) continue;
    await cp(source, path.join(target, file), { recursive: true });
  }
}

async function perform(root: Root, instruction: Instruction, roots: Map<string, Root>): Promise<void> {
  switch (instruction.kind) {
    case "env":
      for (const [name, value] of Object.entries(instruction.values))
        root.env[name] = expand(value, root.env);
      return;
    case "run":
      progress(`RUN ${instruction.script}`);
      await inRoot(root, instruction.script);
      return;
    case "copy":
      progress(`COPY ${instruction.from ?? "."} ${instruction.source}`);
      return copyIn(root, instruction, roots);
    case "workdir":
      root.workdir = instruction.directory;
      await mkdir(path.join(root.directory, root.workdir), { recursive: true });
      return;
    case "user":
      root.user = `${instruction.name}:${instruction.name}`;
      return;
    case "entrypoint":
    case "cmd":
      return; // tried at the end
  }
}

function commandOf(stage: Stage, kind: "entrypoint" | "cmd"): readonly string[] {
  const found = stage.instructions.findLast((instruction) => instruction.kind === kind);
  return found !== undefined && "command" in found ? found.command : [];
}

/** The programs of the image start, as its user, and Postgres with the extension answers. */
async function tryOut(root: Root, stage: Stage): Promise<string[]> {
  progress("trying the programs");
  const found: string[] = [];
  found.push((await inRoot(root, "id -un; postgres --version; node --version; pgbackrest version")).trim());
  const server = [
    "initdb --no-sync -A trust -U postgres -D /tmp/data >/dev/null",
    "pg_ctl -w -D /tmp/data -l /tmp/log -o '-c listen_addresses= -c unix_socket_directories=/tmp' start >/dev/null",
    'psql -h /tmp -U postgres -Atc "select name from pg_available_extensions where name in ' +
      "('quorate','amcheck') order by 1\"",
    "pg_ctl -w -D /tmp/data stop >/dev/null && rm -r /tmp/data",
  ].join(" && ");
  const extensions = (await inRoot(root, server)).trim();
  if (extensions !== "amcheck\nquorate") throw new Error(`the server offers the extensions ${extensions}`);
  found.push(extensions);
  // Without its configuration the sidecar must say what it misses: so its own modules load.
  const command = [...commandOf(stage, "entrypoint"), ...commandOf(stage, "cmd")].join(" ");
  const output = await inRoot(root, `${command} 2>&1 || echo "exit code $?"`, 60_000);
  if (!/sidecar\.json/.test(output) || !/exit code 2/.test(output))
    throw new Error(`the sidecar said: ${output}`);
  found.push(output.trim());
  found.push((await inRoot(root, "quorate --help | head -n 1")).trim());
  return found;
}

async function main(): Promise<void> {
  const command = new Command("check-image")
    .description("carry out the steps of Dockerfile.postgres in empty roots, without a container engine")
    .option(
      "--file <Dockerfile>",
      "another one than Dockerfile.postgres",
      path.join(repoRoot, "Dockerfile.postgres"),
    )
    .option("--keep", "leave the roots where they are")
    .option("--reuse <directory>", "take all stages but the last from what an earlier run left with --keep")
    .parse();
  const { file, keep, reuse } = command.opts<{ file: string; keep?: boolean; reuse?: string }>();
  if (process.getuid?.() !== 0) throw new Error("only root can do this");
  const stages = parseDockerfile(await readFile(file, "utf8"));
  const parent = await mkdtemp(path.join(tmpdir(), "quorate-image-"));
  await run("chmod", ["755", parent]);
  const roots = new Map<string, Root>();
  try {
    let last: Root | undefined;
    for (const [at, stage] of stages.entries()) {
      if (reuse !== undefined && at < stages.length - 1) {
        const directory = path.join(reuse, `${at}`);
        roots.set(stage.name ?? `${at}`, { directory, env: {}, workdir: "/", user: "root" });
        continue;
      }
      last = await makeRoot(stage.image, path.join(parent, `${at}`));
      roots.set(stage.name ?? `${at}`, last);
      for (const instruction of stage.instructions) await perform(last, instruction, roots);
    }
    const lastStage = stages.at(-1);
    if (last === undefined || lastStage === undefined) throw new Error("no stage");
    const results = await tryOut(last, lastStage);
    const { stdout } = await run("du", ["-sxh", last.directory]);
    results.push(`size of the root: ${stdout.split("\t")[0]}`);
    await writeFile(path.join(parent, "results.txt"), `${results.join("\n")}\n`);
    console.log(results.join("\n"));
  } finally {
    for (const { directory } of roots.values()) await unmount(directory);
    const mounts = await readFile("/proc/mounts", "utf8");
    // Never remove below what is still mounted: that would be this machine's own /dev.
    if (keep !== true && !mounts.includes(`${parent}/`)) await rm(parent, { recursive: true, force: true });
    else console.error(`left in ${parent}`);
  }
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(`check-image: ${messageOf(error)}`);
    process.exitCode = 1;
  });
}
