/** pgBackRest's server doesn't outlive its sidecar: the next one couldn't listen, and would serve old certificates. */
import { spawn } from "node:child_process";
import { chmod, readFile, rm, writeFile } from "node:fs/promises";
import { userInfo } from "node:os";
import path from "node:path";
import { isAlive, makePostgresTempDirectory, poll, postgresUser } from "@quorate/common";
import { test } from "tap";

const sidecar = `
import { createLogger } from "@quorate/common";
import { TlsServer } from ${JSON.stringify(new URL("../src/backup/tls-server.ts", import.meta.url).href)};
const [command, osUser, cwd] = process.argv.slice(1);
const logger = createLogger({ name: "test", level: "silent" });
new TlsServer({ command, conf: "/srv/pgbackrest.conf", osUser, cwd, logger }).start();
setInterval(() => undefined, 1000);
`;

test("a sidecar that is killed takes it along", async (t) => {
  const directory = await makePostgresTempDirectory("quorate-server-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const command = path.join(directory, "pgbackrest");
  const pidFile = path.join(directory, "pid");
  await writeFile(command, `#!/bin/sh\necho "$*" > arguments\necho $$ > pid\nexec sleep 600\n`);
  await chmod(command, 0o755);
  const user = postgresUser() === undefined ? userInfo().username : "postgres";
  const child = spawn(
    process.execPath,
    ["--input-type=module", "-e", sidecar, "--", command, user, directory],
    { stdio: "inherit", cwd: import.meta.dirname },
  );
  t.teardown(() => child.kill("SIGKILL"));
  const pid = await poll(async () => Number(await readFile(pidFile, "utf8").catch(() => "")) || undefined, {
    what: "the server to run",
    timeoutMs: 30_000,
  });
  t.teardown(() => isAlive(pid) && process.kill(pid, "SIGKILL"));
  t.ok(isAlive(pid), "it runs");
  t.match(
    await readFile(path.join(directory, "arguments"), "utf8"),
    /--config=\/srv\/pgbackrest\.conf .*server$/m,
  );
  child.kill("SIGKILL");
  await poll(() => !isAlive(pid), { what: "the server to end with its sidecar", timeoutMs: 10_000 });
  t.notOk(isAlive(pid), "and ended");
});
