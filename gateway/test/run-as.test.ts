// Giving up root. What it does needs root to be seen; others only see that nothing happens.
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { findOsUser, run } from "@quorate/common";
import t from "tap";

const isRoot = process.getuid?.() === 0;
const postgres = findOsUser("postgres");
const directory = await mkdtemp(path.join(tmpdir(), "gateway-run-as-"));
t.teardown(() => rm(directory, { recursive: true, force: true }));

/** What a process says of itself after it was told to become this user. */
async function becoming(name: string, resolve = "undefined"): Promise<{ uids: number[]; log: string }> {
  const script = `
    import { becomeUser } from ${JSON.stringify(path.join(import.meta.dirname, "../src/run-as.ts"))};
    import { readFileSync } from "node:fs";
    const log = [];
    try {
      becomeUser(${JSON.stringify(name)}, { warn: (_, text) => log.push(text) }, ${resolve});
    } catch (error) {
      log.push(error.message);
    }
    const status = readFileSync("/proc/self/status", "utf8");
    const uids = /^Uid:(.*)$/m.exec(status)[1].trim().split(/\\s+/).map(Number);
    console.log(JSON.stringify({ uids, log: log.join() }));
  `;
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script], {
    timeoutMs: 60_000,
  });
  return JSON.parse(stdout);
}

const own = process.getuid?.() ?? -1;
const who = (uid: number) => [uid, uid, uid, uid];

t.test("root becomes the user, for good; others stay who they are", async (t) => {
  const uid = isRoot ? (postgres?.uid ?? -1) : own;
  const everybodys = "() => 'file:///etc/passwd'"; // this tree may be one that only root can read
  t.same(await becoming("postgres", everybodys), { uids: who(uid), log: "" });
});

t.test("a user that isn't there, or is root, is refused", async (t) => {
  t.match((await becoming("nobody-of-that-name")).log, isRoot ? /does not exist/ : /^$/);
  t.match((await becoming("root")).log, isRoot ? /is root/ : /^$/);
});

t.test("a program that its user can't read goes on as root, and says so", async (t) => {
  const file = path.join(directory, "secret.ts");
  await writeFile(file, "");
  await chmod(file, 0o600);
  const seen = await becoming("postgres", `() => "file://${file}"`);
  t.same(seen.uids, who(own));
  t.match(seen.log, isRoot ? /goes on as root/ : /^$/);
});
