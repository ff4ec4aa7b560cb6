// The CLI as its users and their programs see it: what --json has, and that wrong input changes nothing.
import { spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { isAlive, poll } from "@quorate/common";
import pg from "pg";
import t from "tap";
import { paths } from "../orchestrator/src/cluster/files.ts";
import { quorate, quorateBin, TestCluster } from "./lib/cluster.ts";

function temporaryDirectory(test: { teardown(clean: () => void): void }, mode = 0o755): string {
  const dir = mkdtempSync(path.join(tmpdir(), "quorate-cli-"));
  chmodSync(dir, mode);
  test.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

t.test("wrong input is refused with a reason, and nothing is changed", async (test) => {
  const parent = temporaryDirectory(test);
  const dir = path.join(parent, "cluster");
  const wrong: [string[], RegExp][] = [
    [["up", "--nodes", "none"], /whole number from 1 to/],
    [["up", "--nodes", "0"], /whole number from 1 to/],
    [["up", "--nodes", "1000"], /whole number from 1 to/],
    [["up", "--zones", "a,,b"], /no zone name/],
    [["up", "--zones", "a,a"], /named twice/],
    [["up", "--base-port", "80"], /whole number from 1024/],
    [["up", "--policy", "unanimity"], /majority/],
    [["up", "--policy", "any-n:n=7"], /needs at least 8 nodes/],
    [["up", "--set", "shared_buffers"], /name=value/],
    [["up", "--what"], /unknown option/],
    [["frobnicate"], /unknown command/],
    [["status"], /there is no cluster/],
    [["down"], /there is no cluster/],
    [["down", "--purge"], /there is no cluster/],
    [["url"], /there is no cluster/],
    [["url", "--role", "king"], /leader, follower/],
    [["switchover"], /there is no cluster/],
    [["node", "stop", "n1"], /there is no cluster/],
    [["node", "explode", "n1"], /unknown command/],
    [["node", "stop"], /missing required argument/],
    [["logs"], /there is no cluster/],
    [["logs", "--lines", "0"], /whole number from 1/],
  ];
  for (const [args, message] of wrong) {
    const run = await quorate(...args, ...(args[0] === "frobnicate" ? [] : ["--dir", dir]));
    test.not(run.code, 0, `quorate ${args.join(" ")}`);
    test.match(run.stderr, message);
    test.notMatch(run.stderr, /at .*\.ts:\d+/, "no stack");
    test.notOk(existsSync(dir), "nothing was made");
  }
});

t.test("up refuses a directory that holds something else, and a taken port", async (test) => {
  const dir = temporaryDirectory(test);
  writeFileSync(path.join(dir, "precious.txt"), "mine");
  const foreign = await quorate("up", "--detach", "--dir", dir);
  test.not(foreign.code, 0);
  test.match(foreign.stderr, /holds no cluster/);
  test.same(readdirSync(dir), ["precious.txt"]);

  const cluster = await TestCluster.prepare(test);
  const server = createServer().listen(cluster.basePort + 2, "127.0.0.1");
  test.teardown(() => void server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const taken = await quorate(...cluster.upArguments());
  test.not(taken.code, 0);
  test.match(taken.stderr, new RegExp(`port ${cluster.basePort + 2} .* --base-port`));
  test.notOk(existsSync(path.join(cluster.dir, "cluster.json")));
});

t.test(
  "as root, up refuses a directory that user postgres can't reach",
  { skip: process.getuid?.() !== 0 && "not root" },
  async (test) => {
    const closed = temporaryDirectory(test, 0o700);
    const run = await quorate("up", "--detach", "--dir", path.join(closed, "cluster"));
    test.not(run.code, 0);
    test.match(run.stderr, /chmod o\+x/);
    test.same(readdirSync(closed), []);
  },
);

t.test("policies explain themselves, without a cluster", async (test) => {
  const nowhere = ["--dir", path.join(temporaryDirectory(test), "cluster")];
  test.match((await quorate("policy", "list")).stdout, /^majority .*\nany-n /);
  const explained = await quorate("policy", "explain", "any-n:n=2", "--nodes", "5", ...nowhere);
  test.equal(explained.code, 0, explained.stderr);
  test.match(explained.stdout, /any-n/);
  const wrong = await quorate("policy", "explain", "any-n:n=9", ...nowhere);
  test.not(wrong.code, 0);
  test.match(wrong.stderr, /needs at least 10 nodes/);
  test.match((await quorate("explain", "--table", ...nowhere)).stdout, /leader_postgres_down\n {2}when:/);
});

t.test("a running cluster", async (test) => {
  const cluster = await TestCluster.start(test);
  const at = ["--dir", cluster.dir];
  await cluster.waitUntilWhole();

  await test.test("status --json", async (sub) => {
    const run = await quorate("status", "--json", ...at);
    sub.equal(run.code, 0);
    const status = JSON.parse(run.stdout) as {
      leader: string;
      term: number;
      commitLsn: string;
      ruleset: { version: number; policy: string };
      nodes: Record<string, unknown>[];
    };
    sub.match(status.leader, /^n[123]$/);
    sub.ok(status.term > 0);
    sub.match(status.commitLsn, /^[0-9A-F]+\/[0-9A-F]+$/);
    sub.equal(status.ruleset.policy, "majority");
    sub.equal(status.ruleset.version, 2);
    sub.same(
      status.nodes.map(({ id }) => id),
      ["n1", "n2", "n3"],
    );
    sub.same(
      status.nodes.map(({ zone }) => zone),
      ["a", "b", "c"],
    );
    for (const node of status.nodes) {
      sub.equal(node["role"], node["id"] === status.leader ? "leader" : "follower");
      sub.equal(node["term"], status.term);
      sub.ok(Number(node["promisedTerm"]) <= status.term);
      sub.equal(node["postgres"], "running");
      sub.ok(isAlive(Number(node["pid"])));
      sub.equal(node["pid"], cluster.postmasterPid(String(node["id"])));
      for (const lsn of ["receivedLsn", "flushedLsn", "appliedLsn"])
        sub.match(node[lsn], /^[0-9A-F]+\/[0-9A-F]+$/);
    }
    const text = await quorate("status", ...at);
    sub.match(text.stdout, new RegExp(`leader ${status.leader}`));
  });

  await test.test("url and psql", async (sub) => {
    const leader = await cluster.leader();
    const { stdout } = await quorate("url", ...at);
    const client = new pg.Client({ connectionString: stdout.trim() });
    await client.connect();
    const { rows } = await client.query("select pg_is_in_recovery() as standby");
    await client.end();
    sub.same(rows, [{ standby: false }]);
    const follower = await quorate("url", "--role", "follower", ...at);
    sub.equal(follower.code, 0);
    sub.not(follower.stdout, stdout);
    const one = await quorate("url", "--node", leader, ...at);
    sub.equal(one.stdout, stdout);
    const json = await quorate("url", "--json", ...at);
    sub.same(JSON.parse(json.stdout), { url: stdout.trim() });
    const psql = await quorate("psql", ...at, "--", "-Atc", "select 40 + 2");
    sub.equal(psql.stdout, "42\n", psql.stderr);
    const failing = await quorate("psql", ...at, "--", "-Atc", "select nonsense");
    sub.not(failing.code, 0, "psql's own exit code");
  });

  await test.test("explain", async (sub) => {
    const { stdout } = await quorate("explain", ...at);
    for (const id of ["o1", "o2", "o3"])
      sub.match(stdout, new RegExp(`${id} \\(zone .\\)\\n  nothing +leader_well`));
    const inForce = await quorate("policy", "explain", ...at);
    sub.equal(inForce.code, 0, inForce.stderr);
    sub.match(inForce.stdout, /2\(n1,n2,n3\)/);
  });

  await test.test("wrong names and wrong wishes", async (sub) => {
    const before = await cluster.picture();
    const leader = await cluster.leader();
    const wrong: [string[], RegExp][] = [
      [["node", "kill", "n9"], /no node "n9".*n1, n2, n3/],
      [["url", "--node", "n9"], /no node "n9"/],
      [["url", "--node", "n1", "--role", "leader"], /not both/],
      [["switchover", "--to", "n9"], /no node "n9"/],
      [["switchover", "--to", leader], /leads already/],
      [["failover", "--to", leader], /leads already/],
      [["logs", "n9"], /n1, n2, n3, o1/],
      [["up", "--nodes", "5", "--detach"], /it has 3 nodes, --nodes says 5/],
      [["up", "--policy", "any-n", "--detach"], /policy is majority/],
    ];
    for (const [args, message] of wrong) {
      const run = await quorate(...args, ...at);
      sub.not(run.code, 0, `quorate ${args.join(" ")}`);
      sub.match(run.stderr, message);
    }
    const after = await cluster.picture();
    sub.equal(after.leader, before.leader);
    sub.equal(after.term, before.term);
    sub.same(
      after.nodes.map(({ pid }) => pid),
      before.nodes.map(({ pid }) => pid),
    );
  });

  await test.test("up again changes nothing", async (sub) => {
    const before = await cluster.picture();
    const run = await cluster.up();
    sub.match(run.stdout, /postgresql:\/\//);
    const after = await cluster.picture();
    sub.same(
      after.nodes.map(({ pid }) => pid),
      before.nodes.map(({ pid }) => pid),
    );
  });

  await test.test("node stop, start, restart, kill of a follower", async (sub) => {
    const leader = await cluster.leader();
    const id = cluster.ids.find((each) => each !== leader) ?? "";
    const stopped = await quorate("node", "stop", id, "--json", ...at);
    sub.equal(stopped.code, 0);
    sub.same(JSON.parse(stopped.stdout), { node: id, action: "stop", pid: null });
    sub.equal((await cluster.pictureOf(id)).operatorStopped, true);
    sub.equal((await cluster.pictureOf(id)).pid, null);
    sub.equal((await quorate("node", "start", id, ...at)).code, 0);
    await cluster.waitUntilWhole();
    for (const verb of ["restart", "kill"]) {
      const pid = cluster.postmasterPid(id);
      sub.equal((await quorate("node", verb, id, ...at)).code, 0);
      await cluster.waitUntilWhole();
      sub.not(cluster.postmasterPid(id), pid, `${verb}: another process`);
    }
    sub.equal(await cluster.leader(), leader);
  });

  await test.test("failover --to a follower", async (sub) => {
    const old = await cluster.leader();
    const to = cluster.ids.find((each) => each !== old) ?? "";
    const { term } = await cluster.picture();
    const plan = await quorate("leader", "failover", "--to", to, "--dry-run", "--json", ...at);
    sub.same(
      (JSON.parse(plan.stdout) as { steps: { kind: string }[] }).steps.map(({ kind }) => kind),
      ["recruit", "elect", "follow"],
    );
    sub.match(
      (await quorate("switchover", "--dry-run", ...at)).stdout,
      /^1\. .* holds .*Nothing was changed/s,
    );
    sub.equal((await cluster.picture()).term, term, "--dry-run changes nothing");
    const run = await quorate("failover", "--to", to, "--json", ...at);
    sub.equal(run.code, 0, `${run.stdout}${run.stderr}`);
    sub.match(JSON.parse(run.stdout), { leader: to, term: Number, durationMs: Number, late: [] });
    sub.match(run.stderr, new RegExp(`${to} leads term`), "people read what happens");
    sub.equal(await cluster.leader(), to);
    await cluster.waitUntilWhole();
  });

  await test.test("logs tell the story", async (sub) => {
    const run = await quorate("logs", ...at, "--lines", "500");
    sub.match(run.stdout, /leads term/);
    sub.match((await quorate("logs", "o1", ...at)).stdout, /orchestrator started/);
    const lines = (await quorate("logs", "o1", "--json", ...at)).stdout.trim().split("\n");
    for (const line of lines) sub.match(JSON.parse(line), { at: /^\d{4}-/, source: "o1", text: String });
    sub.equal((await quorate("logs", "n1", ...at)).code, 0);
    // More than a pipe takes at once: none of it may be lost when the command ends.
    const filler = (i: number) =>
      JSON.stringify({ level: "info", time: new Date(), component: "orchestrator", msg: `filler ${i}.` });
    const many = Array.from({ length: 5000 }, (_, i) => `${filler(i)}\n`).join("");
    appendFileSync(paths.orchestratorLog(cluster.dir, "o1"), many);
    const long = await quorate("logs", "o1", ...at, "--lines", "5000");
    sub.match(long.stdout, /filler 4999\./);
  });

  await test.test("down --purge removes what up has made, and only that", async (sub) => {
    const pids = cluster.ids.map((id) => cluster.postmasterPid(id));
    mkdirSync(path.join(cluster.dir, "mine"));
    const run = await quorate("down", "--purge", "--json", ...at);
    sub.equal(run.code, 0, run.stderr);
    sub.same(JSON.parse(run.stdout), { stopped: true, purged: true });
    sub.same(readdirSync(cluster.dir), ["mine"]);
    sub.same(
      pids.filter((pid) => isAlive(pid)),
      [],
    );
  });
});

t.test("up on a terminal: a live view until Ctrl-C, which stops all of it", async (test) => {
  const cluster = await TestCluster.prepare(test, { nodes: 1, zones: "a" });
  const args = cluster.upArguments().filter((arg) => arg !== "--detach");
  // script(1) starts $SHELL; with exec no shell is left to die of the Ctrl-C itself and hide the exit code.
  const command = ["exec", process.execPath, quorateBin, ...args].join(" ");
  const env = { ...process.env, SHELL: "/bin/sh" };
  const terminal = spawn("script", ["-qfec", command, "/dev/null"], {
    stdio: ["pipe", "pipe", "inherit"],
    env,
  });
  test.teardown(() => void terminal.kill("SIGKILL"));
  let screen = "";
  terminal.stdout.on("data", (chunk: Buffer) => {
    screen += chunk.toString("utf8");
  });
  const what = "the live view";
  await poll(() => screen.includes("Ctrl-C stops the cluster"), { what, timeoutMs: 60_000 });
  test.match(screen, /leader n1, term \d+/);
  test.match(screen, /postgresql:\/\/app:/);
  const postgres = cluster.postmasterPid("n1");
  const ended = new Promise((resolve) => terminal.once("exit", resolve));
  terminal.stdin.write("\x03");
  test.equal(await ended, 0);
  test.match(screen, /The cluster has stopped/);
  test.notOk(isAlive(postgres));
});
