/** The rules of the repository, as tests: what a reviewer would otherwise have to remember. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { run } from "@quorate/common";
import { test } from "tap";
import { repoRoot } from "../scripts/lib/repo.ts";

const files = execFileSync("git", ["ls-files", "-z"], { cwd: repoRoot, encoding: "utf8" })
  .split("\0")
  .filter((file) => file !== "" && existsSync(path.join(repoRoot, file)));

function read(file: string): string {
  return readFileSync(path.join(repoRoot, file), "utf8");
}

function hostOf(address: string): string[] {
  const host = /^[a-z+]+:\/\/(?:[^/@]*@)?([^/:]+)/.exec(address.trim())?.[1];
  return host === undefined || /^(localhost|127\.|\[)/.test(host) ? [] : [host];
}

/** Where this machine gets its packages from: npm's and apt's configuration, proxies included. */
async function registryHosts(): Promise<string[]> {
  const npm: Record<string, unknown> = JSON.parse((await run("npm", ["config", "list", "--json"])).stdout);
  const fromNpm = Object.entries(npm)
    .filter(([key, value]) => /registry|proxy/.test(key) && typeof value === "string")
    .flatMap(([, value]) => hostOf(String(value)));
  const apt = async (program: string, args: string[]) =>
    existsSync(`/usr/bin/${program}`) ? (await run(program, args)).stdout.split("\n") : [];
  const sites = await apt("apt-get", ["indextargets", "--format", "$(SITE)"]);
  const settings = await apt("apt-config", ["dump", "--format", "%v%n"]);
  return [...new Set([...fromNpm, ...[...sites, ...settings].flatMap(hostOf)])];
}

test("no host of a package registry or mirror is written down anywhere", async (t) => {
  const hosts = await registryHosts();
  t.ok(hosts.length > 0, "the machine's configuration names some");
  for (const file of files) {
    const content = read(file);
    const found = hosts.filter((host) => content.includes(host));
    if (found.length > 0) t.fail(`${file} contains ${found.join(", ")}`);
  }
});

test("no path of the machine that it was written on", async (t) => {
  const found = files.filter((file) => read(file).includes(repoRoot));
  t.same(found, []);
});

test("nothing is left for later in the sources", async (t) => {
  const marker = new RegExp(
    `\\b(${["TO", "FIX"].map((start) => start + (start === "TO" ? "DO" : "ME")).join("|")})\\b`,
  );
  const checked = files.filter((file) => /\.(ts|js|json|c|h|sql|md|sh|grit)$|Makefile|Dockerfile/.test(file));
  t.same(
    checked.filter((file) => marker.test(read(file))),
    [],
  );
});

test("no test is switched off or runs alone", async (t) => {
  // A test may depend on its surroundings (skip: !isRoot && "reason"), but not be off everywhere.
  const off = /\b(t|test)\.(skip|todo|only)\(|\{\s*(skip|todo|only):\s*(true|["'`])/;
  t.same(
    files.filter((file) => file.endsWith(".test.ts") && off.test(read(file))),
    [],
  );
});

test("files stay short enough to read", async (t) => {
  // The aim is some 500 lines; these are the limits at which a file must be split.
  const limits = [
    { pattern: /\.(ts|js)$/, lines: 700 },
    { pattern: /\.[ch]$/, lines: 1300 },
  ];
  // Too long already, to be split: they may shrink, not grow.
  const known: Readonly<Record<string, number>> = { "sim/src/postgres.ts": 1000 };
  for (const file of files) {
    const limit = known[file] ?? limits.find(({ pattern }) => pattern.test(file))?.lines;
    const lines = limit === undefined ? 0 : read(file).split("\n").length;
    if (limit !== undefined && lines > limit) t.fail(`${file} has ${lines} lines, limit ${limit}`);
  }
  t.ok(files.length > 0);
});

test("each program explains itself", async (t) => {
  const scripts: Record<string, string> = JSON.parse(read("package.json")).scripts;
  const fromScripts = Object.values(scripts).flatMap(
    (command) => /^(?:nice )?node (\S+\.(?:ts|js))/.exec(command)?.[1] ?? [],
  );
  const programs = new Set([
    ...fromScripts,
    ...files.filter((file) => /^scripts\/[^/]+\.(ts|js)$|\/bin\/[^/]+\.js$/.test(file)),
  ]);
  for (const program of programs) {
    const { stdout } = await run(process.execPath, [path.join(repoRoot, program), "--help"], {
      timeoutMs: 60_000,
    });
    t.match(stdout, /^Usage: /m, program);
  }
  const { stdout } = await run(path.join(repoRoot, ".ci/run"), ["--help"]);
  t.match(stdout, /^Usage: /m, ".ci/run");
});

test("the papers are there", async (t) => {
  t.match(read("CHANGELOG.md"), /^## Unreleased$/m);
  t.match(read("LICENSE"), /Apache License\s+Version 2\.0/);
  t.match(read("extension/patches/LICENSE"), /PostgreSQL Licence/);
  for (const file of files.filter((each) => /^([a-z]+\/)?package\.json$/.test(each))) {
    t.equal(JSON.parse(read(file)).license, "Apache-2.0", file);
  }
});

test("each patch has its page", async (t) => {
  const patches = files.filter((file) => /^extension\/patches\/\d+\/\d{4}-.*\.patch$/.test(file));
  for (const patch of patches) {
    const number = path.join(path.dirname(patch), path.basename(patch).slice(0, 4));
    const hasPage = files.some((file) => file.startsWith(`${number}-`) && file.endsWith(".md"));
    t.ok(hasPage, `${number}-….md: files, problem, why a hook is not enough, how to get rid of it`);
  }
  const numbers = patches.map((patch) => path.basename(patch).slice(0, 4));
  t.same(numbers, [...numbers].sort());
});
