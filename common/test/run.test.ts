import { statSync } from "node:fs";
import { rmdir } from "node:fs/promises";
import { getPriority } from "node:os";
import { test } from "tap";
import {
  asPostgres,
  findOsUser,
  makePostgresTempDirectory,
  poll,
  postgresUser,
  run,
  runAsPostgres,
  spawnAsPostgres,
} from "../src/index.ts";

test("run gives output and exit code", async (t) => {
  const result = await run("sh", ["-c", "cat; echo $A; echo err >&2; exit 3"], {
    input: "in\n",
    env: { A: "b" },
    okCodes: [0, 3],
  });
  t.same(result, { code: 3, stdout: "in\nb\n", stderr: "err\n" });
});

test("a failure tells the command and the last lines of its output", async (t) => {
  await t.rejects(run("sh", ["-c", "seq 100 >&2; exit 1"]), {
    code: "command_failed",
    message: /^sh -c .*: exit code 1\n86\n[\s\S]*\n100$/,
  });
  await t.rejects(run("/no/such/program", []), { code: "command_failed", message: /could not start/ });
});

test("run keeps its bounds", async (t) => {
  await t.rejects(run("sleep", ["60"], { timeoutMs: 50 }), { message: /not done after 50 ms/ });
  const reason = new Error("enough");
  const controller = new AbortController();
  const running = run("sleep", ["60"], { signal: controller.signal });
  controller.abort(reason);
  await t.rejects(running, reason);
  const { stdout } = await run("seq", ["100000"], { maxOutputBytes: 100 });
  t.equal(stdout.length, 100);
  t.match(stdout, /100000\n$/);
});

test("a program of low priority hands it on to what it starts", async (t) => {
  const { stdout } = await run("sh", ["-c", "read line; nice; sh -c nice"], { input: "\n", niceness: 7 });
  const expected = Math.max(getPriority(), 7);
  t.equal(stdout, `${expected}\n${expected}\n`);
});

test("the passwd database", async (t) => {
  const passwd =
    "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
  t.same(findOsUser("postgres", passwd), {
    name: "postgres",
    uid: 101,
    gid: 104,
    home: "/var/lib/postgresql",
  });
  t.equal(findOsUser("nobody", passwd), undefined);
});

test("programs for Postgres never run as root", async (t) => {
  const { stdout } = await runAsPostgres("id", ["-u"]);
  const expected = postgresUser()?.uid ?? process.getuid?.();
  t.not(stdout.trim(), "0");
  t.equal(stdout.trim(), String(expected));

  const directory = await makePostgresTempDirectory();
  t.equal(statSync(directory).uid, expected);
  await rmdir(directory);

  const child = spawnAsPostgres("sh", ["-c", 'echo "$(id -u) $HOME"']);
  let output = "";
  child.stdout?.on("data", (chunk) => {
    output += chunk;
  });
  await poll(() => output.includes("\n"), { what: "the output", timeoutMs: 5000 });
  t.match(output, new RegExp(`^${expected} `));
});

test("for root an unknown or a privileged user is refused with what to do", async (t) => {
  if (process.getuid?.() === 0) {
    t.throws(() => asPostgres({}, "no-such-user"), { code: "no_such_os_user", message: /useradd/ });
    t.throws(() => asPostgres({}, "root"), { code: "no_such_os_user" });
  } else {
    t.same(asPostgres({ cwd: "/" }, "no-such-user"), { cwd: "/" }, "others stay who they are");
  }
});
