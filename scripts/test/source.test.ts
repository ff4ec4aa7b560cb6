import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { run } from "@quorate/common";
import { test } from "tap";
import { withLock } from "../lib/cache.ts";
import { sha256Of } from "../lib/postgres/source.ts";
import { repoRoot } from "../lib/repo.ts";

async function ensure(directory: string, sha256: string, version: string) {
  const script = `
    import { ensureSource } from ${JSON.stringify(path.join(repoRoot, "scripts/lib/postgres/source.ts"))};
    globalThis.fetch = () => Promise.reject(new Error("no network"));
    const file = await ensureSource(
      ${JSON.stringify({ major: 18, version, sha256 })}, () => undefined);
    console.log(file);
  `;
  return run(process.execPath, ["--input-type=module", "-e", script], {
    env: {
      QUORATE_CACHE_DIR: path.join(directory, "cache"),
      QUORATE_SOURCE_DIR: path.join(directory, "source"),
      PATH: path.join(directory, "bin"),
    },
    okCodes: [0, 1],
    timeoutMs: 60_000,
  });
}

test("a tarball at hand is verified and kept; a wrong one is refused with everything that was tried", async (t) => {
  // Below the temporary directory: the cache must be readable by everybody.
  const directory = await mkdtemp(path.join(tmpdir(), "quorate-test-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  await run("chmod", ["755", directory]);
  await run("mkdir", ["-p", ...["cache", "source", "bin"].map((each) => path.join(directory, each))]);
  const tarball = path.join(directory, "source/postgresql-99.1.tar.bz2");

  const absent = await ensure(directory, "0".repeat(64), "99.1");
  t.equal(absent.code, 1);
  t.match(absent.stderr, /no_postgres_source/);
  for (const place of ["the cache: no file", "QUORATE_SOURCE_DIR=", "source package", "no network"]) {
    t.match(absent.stderr, place);
  }
  t.match(absent.stderr, /Provide postgresql-99\.1\.tar\.bz2 \(sha256 0{64}\)/);

  writeFileSync(tarball, "not really");
  const wrong = await ensure(directory, "0".repeat(64), "99.1");
  t.equal(wrong.code, 1);
  t.match(wrong.stderr, /has sha256 [0-9a-f]{64}, expected 0{64}/);
  t.same(readdirSync(path.join(directory, "cache/sources")), []);

  const right = await ensure(directory, await sha256Of(tarball), "99.1");
  t.equal(right.stdout.trim(), path.join(directory, "cache/sources/postgresql-99.1.tar.bz2"));
  await rm(tarball);
  const cached = await ensure(directory, await sha256Of(right.stdout.trim()), "99.1");
  t.equal(cached.code, 0, "found in the cache without its origin");
});

test("one holder of a lock at a time, and an end of the work frees it", async (t) => {
  const file = path.join(t.testdir(), "locks/one");
  const order: string[] = [];
  const work = (name: string) => async () => {
    order.push(`${name} begins`);
    await new Promise((done) => setTimeout(done, 50));
    order.push(`${name} ends`);
    if (name === "a") throw new Error("broken");
  };
  const results = await Promise.allSettled([withLock(file, work("a")), withLock(file, work("b"))]);
  t.ok(existsSync(file));
  t.equal(results.filter(({ status }) => status === "rejected").length, 1);
  const [first] = order[0]?.split(" ") ?? [];
  const second = first === "a" ? "b" : "a";
  t.same(order, [`${first} begins`, `${first} ends`, `${second} begins`, `${second} ends`]);
});
