import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "tap";
import { createLogger, createLoggerTo, QuorateError, redactText } from "../src/index.ts";

function capture() {
  const lines: Record<string, unknown>[] = [];
  const text: string[] = [];
  const write = (line: string) => {
    text.push(line);
    lines.push(JSON.parse(line));
  };
  return { destination: { write }, lines, text };
}

test("a line is JSON with level, component and the child's fields", async (t) => {
  const { destination, lines } = capture();
  const log = createLoggerTo(destination, { name: "sidecar", fields: { node: "n1" } });
  log.child({ term: 7 }).info({ lsn: 42n }, "promoted");
  log.debug("not shown");
  t.equal(lines.length, 1);
  t.match(lines[0], {
    level: "info",
    component: "sidecar",
    node: "n1",
    term: 7,
    lsn: "42",
    msg: "promoted",
  });
  t.match(lines[0]?.["time"], /^\d{4}-\d\d-\d\dT/);
});

test("no secret gets into a line, wherever it stands", async (t) => {
  const { destination, text, lines } = capture();
  const log = createLoggerTo(destination, { name: "x", fields: { password: "hunter2" } });
  log.child({ token: "hunter2" }).info(
    {
      replication: { password: "hunter2", passwordFile: "/etc/p" },
      list: [{ clientSecret: "hunter2" }],
      conninfo: "host=a password=hunter2 port=1",
      url: "postgres://app:hunter2@host/db",
    },
    "connecting to postgres://app:hunter2@host/db with %s",
    "password='hunter2'",
  );
  const cause = new Error("password=hunter2");
  log.error({ err: new QuorateError("command_failed", "ALTER ROLE a PASSWORD 'hunter2'", { cause }) }, "no");
  t.notMatch(text.join(""), /hunter2/);
  t.match(lines[0], { replication: { passwordFile: "/etc/p" } }, "the place of a secret is no secret");
  t.match(lines[1], { err: { code: "command_failed", stack: /logging\.test/ } });
});

test("an error logged alone keeps its message and code", async (t) => {
  const { destination, lines } = capture();
  createLoggerTo(destination, { name: "x" }).error(new QuorateError("timed_out", "too late"));
  t.match(lines[0], { err: { message: "too late", code: "timed_out" }, msg: "too late" });
});

test("a file gets each line at once", async (t) => {
  const file = path.join(t.testdir(), "log/sidecar.log");
  createLogger({ name: "sidecar", file }).warn({ a: 1 }, "one");
  createLogger({ name: "sidecar", file }).warn("two");
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  t.same(
    lines.map((line) => JSON.parse(line).msg),
    ["one", "two"],
  );
});

test("redactText changes nothing but secrets", async (t) => {
  t.equal(redactText("host=a port=1 user=b"), "host=a port=1 user=b");
  t.equal(redactText("postgres://app@host:5432/db"), "postgres://app@host:5432/db");
  t.equal(redactText("pgpassword=abc x=1"), "pgpassword=[redacted] x=1");
});
