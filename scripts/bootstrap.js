// `npm start` and `npm test` begin here. Plain JavaScript without dependencies: it must run under any Node >= 20, in a
// clone without node_modules, on a machine without a compiler. It installs what is missing and hands over to the
// pinned Node, which runs the TypeScript sources as they are.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const modules = path.join(root, "node_modules");
const pinnedNode = path.join(modules, "node", "bin", "node");
const isRoot = process.getuid?.() === 0;

const help = `Usage: node scripts/bootstrap.js <task> [arguments]

Tasks:
  prepare   install system packages and npm dependencies that are missing
  start     the same, build PostgreSQL if needed, then \`quorate up\` with the arguments
  test      the same, build PostgreSQL if needed, then run the tests

Environment:
  QUORATE_SOURCE_DIR   a folder with PostgreSQL's source tarball, if there is no network
  QUORATE_CACHE_DIR    where built programs are kept (default: /var/cache/quorate for root, else ~/.cache/quorate)
`;

function say(text) {
  process.stderr.write(`${text}\n`);
}

function giveUp(text) {
  say(`quorate: ${text}`);
  process.exit(1);
}

/** Runs a program on our terminal; its exit code, or undefined if it isn't there. */
function runHere(command, args, cwd = root) {
  // What it prints is progress, which belongs on stderr.
  const result = spawnSync(command, args, { cwd, stdio: ["inherit", 2, 2] });
  return result.error === undefined ? (result.status ?? 1) : undefined;
}

function isOnPath(program) {
  for (const directory of [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"]) {
    try {
      accessSync(path.join(directory, program), constants.X_OK);
      return true;
    } catch {
      // look on
    }
  }
  return false;
}

function missingPackages() {
  const { system } = JSON.parse(readFileSync(path.join(root, "scripts", "system-packages.json"), "utf8"));
  const query = spawnSync(
    "dpkg-query",
    ["-W", "-f", "$" + "{Package} $" + "{db:Status-Status}\n", ...system],
    {
      encoding: "utf8",
    },
  );
  if (query.error !== undefined) return undefined;
  const installed = new Set();
  for (const line of query.stdout.split("\n")) {
    const [name, status] = line.split(" ");
    if (status === "installed") installed.add(name);
  }
  return system.filter((name) => !installed.has(name));
}

/** The command line that does it with the rights that are needed, or undefined if we can't get them. */
function privileged(command) {
  const quiet = ["env", "DEBIAN_FRONTEND=noninteractive", ...command];
  if (isRoot) return quiet;
  return isOnPath("sudo") ? ["sudo", ...quiet] : undefined;
}

function installSystemPackages() {
  const missing = missingPackages();
  if (missing === undefined) {
    say(
      "quorate: this is no Debian-like system; a C compiler, make, bison, flex, perl and the headers of readline,",
    );
    say("         zlib, OpenSSL, ICU, lz4 and zstd must be there already.");
    return;
  }
  if (missing.length === 0) return;
  const install = ["apt-get", "install", "--yes", "--no-install-recommends", ...missing];
  const command = privileged(install);
  if (command === undefined) {
    giveUp(
      "these system packages are missing, and there is neither root nor sudo to install them. " +
        `As root, run:\n  apt-get update && ${install.join(" ")}`,
    );
  }
  say(`quorate: installing system packages: ${missing.join(" ")}`);
  const update = privileged(["apt-get", "update", "--quiet"]);
  if (runHere(update[0], update.slice(1)) !== 0)
    say("quorate: apt-get update failed; trying with the old lists");
  if (runHere(command[0], command.slice(1)) !== 0)
    giveUp("the system packages could not be installed (see above)");
}

/** Postgres refuses to run as root: root needs a user to run it as. */
function createPostgresUser() {
  if (!isRoot || /^postgres:/m.test(readFileSync("/etc/passwd", "utf8"))) return;
  say("quorate: creating the system user postgres, who will run PostgreSQL");
  const args = ["--system", "--user-group", "--home-dir", "/var/lib/postgresql", "--create-home", "postgres"];
  if (runHere("useradd", [...args, "--shell", "/bin/bash"]) !== 0)
    giveUp("the user postgres could not be created");
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

/** True if every package of the lock file that belongs on this machine is installed in that version. */
function installedMatchesLock(lock) {
  const installed = readJson(path.join(modules, ".package-lock.json"))?.packages;
  if (installed === undefined) return false;
  for (const [where, entry] of Object.entries(lock.packages)) {
    if (where === "" || entry.link === true || entry.optional === true || entry.devOptional === true)
      continue;
    if (!where.startsWith("node_modules/")) continue;
    if (installed[where]?.version !== entry.version) return false;
  }
  return true;
}

function pinnedNodeWorks(lock) {
  const wanted = lock.packages["node_modules/node"]?.version;
  const result = spawnSync(pinnedNode, ["--version"], { encoding: "utf8" });
  return result.error === undefined && result.stdout.trim() === `v${wanted}`;
}

function installNpmDependencies() {
  const lockFile = path.join(root, "package-lock.json");
  const lockText = readFileSync(lockFile, "utf8");
  const lock = JSON.parse(lockText);
  const hash = createHash("sha256").update(lockText).digest("hex");
  const marker = path.join(modules, ".quorate-lock");
  const isCurrent = existsSync(marker) && readFileSync(marker, "utf8") === hash;
  if (isCurrent && existsSync(pinnedNode)) return;
  if (!installedMatchesLock(lock) || !pinnedNodeWorks(lock)) {
    say("quorate: installing npm dependencies");
    if (runHere("npm", ["ci", "--no-audit", "--no-fund"]) !== 0) giveUp("npm ci failed (see above)");
    // npm may be set to run no install scripts; this one brings the pinned Node.
    if (!pinnedNodeWorks(lock))
      runHere(
        process.execPath,
        [path.join(modules, "node", "installArchSpecificPackage.js")],
        path.join(modules, "node"),
      );
    if (!pinnedNodeWorks(lock)) giveUp(`the pinned Node could not be installed at ${pinnedNode}`);
  }
  writeFileSync(marker, hash);
}

function handOver(args) {
  const env = {
    // As in orchestrator/bin/quorate.js.
    NODE_COMPILE_CACHE: path.join(modules, ".cache", "quorate"),
    ...process.env,
    PATH: [path.dirname(pinnedNode), path.join(modules, ".bin"), process.env.PATH].join(":"),
    NODE_USE_ENV_PROXY: "1",
  };
  const child = spawn(pinnedNode, [path.join(root, "scripts", "setup.ts"), ...args], {
    stdio: "inherit",
    env,
  });
  // A terminal sends Ctrl-C to everybody in the foreground; who runs us by a program signals only us.
  process.on("SIGINT", () => {
    if (!process.stdin.isTTY) child.kill("SIGINT");
  });
  for (const signal of ["SIGTERM", "SIGHUP", "SIGQUIT"]) process.on(signal, () => child.kill(signal));
  child.on("error", (error) => giveUp(`could not start ${pinnedNode}: ${error.message}`));
  child.on("exit", (code, signal) => {
    process.exitCode = signal === null ? (code ?? 1) : 128 + (os.constants.signals[signal] ?? 0);
  });
}

function main() {
  const [task, ...args] = process.argv.slice(2);
  if (task === "--help" || task === "-h") return process.stdout.write(help);
  if (!["prepare", "start", "test"].includes(task)) {
    process.stderr.write(help);
    process.exit(2);
  }
  const major = Number(process.versions.node.split(".")[0]);
  if (major < 20) giveUp(`Node ${process.versions.node} is too old: 20 or newer is needed`);
  if (process.platform !== "linux") giveUp(`Quorate runs on Linux, not on ${process.platform}`);
  installSystemPackages();
  createPostgresUser();
  installNpmDependencies();
  if (task !== "prepare") handOver([task, ...args]);
}

main();
