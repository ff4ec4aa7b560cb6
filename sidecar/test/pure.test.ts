/** The parts that decide or write text, without any process. */
import { createHash, createHmac, pbkdf2Sync } from "node:crypto";
import { coordinatorId, nodeId, term } from "@quorate/consensus";
import t from "tap";
import { type SidecarConfig, sidecarConfigSchema } from "../src/config.ts";
import { passFileText, replicationConninfo } from "../src/conninfo.ts";
import { type ControlStatus, controlStatusSchema } from "../src/control-protocol.ts";
import { parseCloneProgress } from "../src/data-directory.ts";
import { nodePaths } from "../src/paths.ts";
import { lastComplaint } from "../src/postgres-process.ts";
import { failedAfter, healthyAfterMs, noCrash, planRestart, settledAfterMs } from "../src/restart-planner.ts";
import { scramVerifier } from "../src/scram.ts";
import { pgHba, postgresArguments, quorateConf, safetySettings, withInclude } from "../src/settings.ts";
import { nodeStatus, type StatusParts } from "../src/status-view.ts";
import { FakeControl, type FakeState } from "./fake-control.ts";

function config(settings: Record<string, string | number | boolean> = {}): SidecarConfig {
  return sidecarConfigSchema.parse({
    cluster: "main",
    node: { id: "n1", zone: "b" },
    dir: "/d",
    ports: { postgres: 1, grpc: 2, http: 3 },
    postgres: { binDir: "/bin", settings },
    replication: { passwordFile: "/r" },
    app: { passwordFile: "/a" },
  });
}

t.test("settings: an operator's come through, safety's don't change", async (t) => {
  const paths = nodePaths("/d");
  const conf = quorateConf(
    config({ shared_buffers: "1GB", "my.quote": "it's", track_io_timing: true }),
    paths,
  );
  t.match(conf, /^shared_buffers = '1GB'$/m);
  t.match(conf, /^my\.quote = 'it''s'$/m);
  t.match(conf, /^track_io_timing = 'on'$/m);
  const conf2 = quorateConf(config({ shared_preload_libraries: "pg_stat_statements, quorate" }), paths);
  t.match(conf2, /^shared_preload_libraries = 'quorate,pg_stat_statements'$/m);
  const args = postgresArguments(config(), paths);
  t.same(args.slice(0, 2), ["-D", "/d/data"]);
  for (const name of Object.keys(safetySettings(config(), paths)))
    t.ok(
      args.some((arg) => arg.startsWith(`${name}=`)),
      `${name} is on the command line, beyond the reach of ALTER SYSTEM`,
    );
  t.ok(args.includes("full_page_writes=on"));
  t.ok(args.includes("restart_after_crash=off"));
  t.ok(args.includes("quorate.control_socket=/d/run/control.sock"));
});

t.test("the include is the last line, once", async (t) => {
  const once = withInclude("a = 1\n\n");
  t.equal(once, "a = 1\ninclude 'quorate.conf'\n");
  t.equal(withInclude(once), once);
  t.equal(withInclude(`${once}b = 2\n`), "a = 1\nb = 2\ninclude 'quorate.conf'\n");
});

t.test("off the local socket nobody gets in without a password", async (t) => {
  const rules = pgHba(config())
    .split("\n")
    .filter((line) => line.startsWith("host"));
  t.ok(rules.length > 0);
  for (const rule of rules) t.match(rule, /(scram-sha-256|reject)$/);
});

t.test(
  "with certificates nobody gets in from elsewhere without TLS, and no node without its certificate",
  async (t) => {
    const tls = { ca: "/ca", cert: "/cert", key: "/key" };
    const rules = (text: string): string[][] =>
      text
        .split("\n")
        .filter((line) => line.startsWith("host"))
        .map((line) => line.split(/ +/));
    const secure = { ...config(), tls };
    for (const [type = "", , , address, method] of rules(pgHba(secure)))
      t.ok(
        type === "hostssl" || method === "reject" || address === "samehost",
        `${type} ${address} ${method}`,
      );
    t.match(
      pgHba(secure),
      /^hostssl +replication +quorate_replication +all +scram-sha-256 clientcert=verify-ca$/m,
    );
    // The first rule that fits counts.
    const first = rules(pgHba(secure))[0] ?? [];
    t.same(first, ["host", "all", "postgres,quorate_control", "all", "reject"]);
    const plain = rules(pgHba({ ...secure, postgres: { ...secure.postgres, allowPlain: true } }));
    t.same(plain.at(-1), ["host", "all", "all", "all", "scram-sha-256"]);
    t.match(plain[1], ["hostssl", "replication"], "replication needs certificates all the same");
    const paths = nodePaths("/d");
    t.ok(postgresArguments(secure, paths).includes("ssl=on"));
    t.ok(postgresArguments(secure, paths).includes("ssl_key_file=/d/run/tls/key.pem"));
    const peer = { host: "n1.example", port: 1 };
    const identity = { node: "n2", user: "u", passFile: "/p", member: true };
    t.match(
      replicationConninfo(peer, { ...identity, tls: paths.tls }),
      / sslmode=verify-full sslrootcert=\/d\/run\/tls\/ca\.pem sslcert=\/d\/run\/tls\/cert\.pem sslkey=\/d\/run\/tls\/key\.pem /,
    );
    t.match(replicationConninfo(peer, identity), / sslmode=disable /);
  },
);

t.test("connection strings: a node says that it is one of the cluster", async (t) => {
  const identity = { node: "n2", user: "quorate_replication", passFile: "/a dir/it's", member: true };
  const member = replicationConninfo({ host: "127.0.0.1", port: 5501 }, identity);
  t.match(
    member,
    /^host=127\.0\.0\.1 port=5501 user=quorate_replication passfile='\/a dir\/it\\'s' application_name=n2 /,
  );
  t.match(member, / options='-cquorate\.member=on'$/);
  const observer = replicationConninfo({ host: "127.0.0.1", port: 5501 }, { ...identity, member: false });
  t.match(observer, / options='-cquorate\.observer=on'$/);
  t.equal(passFileText("u", "a:b\\c"), "*:*:*:u:a\\:b\\\\c\n");
});

t.test("a SCRAM verifier is what Postgres would have stored", async (t) => {
  const salt = Buffer.alloc(16, 7);
  const verifier = scramVerifier("secret", salt);
  const [head, keys] = [
    verifier.slice(0, verifier.lastIndexOf("$")),
    verifier.slice(verifier.lastIndexOf("$") + 1),
  ];
  t.equal(head, `SCRAM-SHA-256$4096:${salt.toString("base64")}`);
  const salted = pbkdf2Sync("secret", salt, 4096, 32, "sha256");
  const key = (name: string): Buffer => createHmac("sha256", salted).update(name).digest();
  t.equal(
    keys,
    `${createHash("sha256").update(key("Client Key")).digest("base64")}:${key("Server Key").toString("base64")}`,
  );
  t.throws(() => scramVerifier("ümlaut"), RangeError);
  t.throws(() => scramVerifier(""), RangeError);
});

t.test("restarts: the first at once, then less and less often, never given up", async (t) => {
  let history = noCrash;
  const delays: number[] = [];
  const states: string[] = [];
  for (let i = 0; i < 12; i++) {
    const plan = planRestart(history, { ranMs: 50, cameUp: false });
    history = plan.history;
    delays.push(plan.delayMs);
    states.push(plan.state);
  }
  t.same(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000, 10000]);
  t.equal(states.indexOf("failed"), failedAfter - 1);
  const atOnce = { delayMs: 0, state: "crashed", history: { failuresInRow: 1 } };
  t.match(planRestart(history, { ranMs: healthyAfterMs, cameUp: false }), atOnce);
  t.match(
    planRestart(history, { ranMs: settledAfterMs, cameUp: true }),
    atOnce,
    "killed some time after it had come up",
  );
  t.not(
    planRestart(history, { ranMs: settledAfterMs - 1, cameUp: true }).delayMs,
    0,
    "killed by what it was told",
  );
});

t.test("progress of a copy: the last report counts", async (t) => {
  t.same(parseCloneProgress(" 10/40 kB (25%), 0/1 tablespace\r 20/40 kB (50%), 0/1 tablespace\r"), {
    doneBytes: 20 * 1024,
    totalBytes: 40 * 1024,
  });
  t.equal(parseCloneProgress("waiting for checkpoint"), null);
});

function control(state: Partial<FakeState>): ControlStatus {
  return controlStatusSchema.parse(new FakeControl(state).status());
}

function parts(change: Partial<StatusParts>): StatusParts {
  return {
    config: config(),
    sidecarVersion: "0.1.0",
    seq: 1,
    phase: "running",
    pid: 10,
    lastExit: null,
    promise: { term: term(7), coordinator: coordinatorId("o1") },
    operatorStopped: false,
    ledTerm: term(0),
    control: control({ state: "leader", term: 7, leader: "n1", rule: "n1" }),
    controlAgeMs: 3,
    diskStuckMs: 0,
    incarnation: "life1",
    systemIdentifier: null,
    clone: null,
    ...change,
  };
}

t.test("the status of a leader, running and dead", async (t) => {
  const led = { ledTerm: term(7) };
  t.match(nodeStatus(parts(led)), {
    state: "leader",
    term: 7,
    wasLeader: false,
    leader: nodeId("n1"),
    zone: "b",
  });
  const dead = nodeStatus(parts({ ...led, phase: "crashed", pid: null, lastExit: "killed by SIGKILL" }));
  t.match(dead, { state: null, term: 7, wasLeader: true, leader: null, position: null, controlAgeMs: null });
  t.match(nodeStatus(parts({ ...led, phase: "starting" })), { state: null, term: 7, wasLeader: true });
  const fenced = control({ state: "fenced", term: 7 });
  t.match(nodeStatus(parts({ ...led, control: fenced })), { state: "fenced", wasLeader: true });
  const restarted = control({ state: "fenced", term: 0, position: { term: 7, lsn: "0/1" } });
  t.match(nodeStatus(parts({ ...led, control: restarted })), { term: 7, wasLeader: true });
  const stray = control({ state: "fenced", term: 0, position: { term: 9, lsn: "0/1" } });
  t.match(nodeStatus(parts({ ...led, control: stray })), { term: 9, wasLeader: false });
  const follower = control({ state: "follower", term: 8, leader: "n2" });
  t.match(nodeStatus(parts({ ...led, control: follower })), { wasLeader: false, term: 8 });
});

t.test("whoever else streams is no follower", async (t) => {
  const status = new FakeControl().status();
  const follower = { member: false, pid: 1, timeline: 1, replyAgeMs: null };
  const parsed = controlStatusSchema.parse({
    ...status,
    followers: [
      { ...follower, node: "pg_receivewal" },
      { ...follower, node: "My Backup" },
      { ...follower, node: null },
    ],
  });
  t.match(parsed.followers, [{ node: "pg_receivewal", replyAgeMs: 0xffffffff }]);
  t.equal(parsed.followers.length, 1);
});

t.test("a sidecar that has just started knows who led from its memory", async (t) => {
  const status = nodeStatus(parts({ control: null, phase: "stopped", pid: null, ledTerm: term(7) }));
  t.match(status, { term: 7, wasLeader: true, promisedTerm: 7, promisedTo: "o1" });
});

t.test("the reason why Postgres ended is found in what it logged", async (t) => {
  const log = [
    "2026-11-21 10:00:00.000 UTC [1] @ FATAL:  the database system is starting up",
    "2026-11-21 10:00:00.000 UTC [1] @ FATAL:  recovery aborted because of insufficient parameter settings",
    "2026-11-21 10:00:00.000 UTC [1] @ DETAIL:  max_connections = 60 is a lower setting than on the primary server",
    "2026-11-21 10:00:00.000 UTC [1] @ FATAL:  terminating connection due to administrator command",
  ];
  t.equal(lastComplaint(log.join("\n")), "recovery aborted because of insufficient parameter settings");
  t.equal(lastComplaint("LOG:  all is well\n"), null);
  const noControlFile = "postgres: could not find the database system\nExpected to find it in …\n";
  t.equal(lastComplaint(noControlFile), "could not find the database system");
});
