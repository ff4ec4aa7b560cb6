// Mutual TLS: with certificates nobody else is answered, and renewed ones are taken without a restart.
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import * as https from "node:https";
import { tmpdir } from "node:os";
import path from "node:path";
import { connect, type TLSSocket } from "node:tls";
import { guardedGet, poll, run } from "@quorate/common";
import { accessOf, gatewayUrl } from "@quorate/orchestrator/cluster/files.ts";
import { clientCredentials, connectSidecar } from "@quorate/proto";
import pg from "pg";
import t, { type Test } from "tap";
import { quorate, TestCluster } from "./lib/cluster.ts";
import { readSecrets, secretsInLogs, watchArguments } from "./lib/secrets.ts";

t.test("certs init, refusal of everybody else, certs renew", async (test) => {
  const cluster = await TestCluster.start(test, { gateway: true });
  const verb = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await quorate(...args, "--dir", cluster.dir);
    test.equal(code, 0, `quorate ${args.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  };
  const early = await quorate("certs", "init", "--dir", cluster.dir);
  test.not(early.code, 0, "not while it runs");
  await verb("down");
  await verb("certs", "init", "--days", "2");
  const secrets = readSecrets(cluster.dir);
  test.ok(secrets.size >= 4, [...secrets.keys()].join(", "));
  const watch = watchArguments(secrets);
  test.teardown(watch.end);
  await cluster.up();
  cluster.reopen();
  await cluster.waitUntilWhole();
  await verb("switchover");
  const through = new pg.Client({ connectionString: gatewayUrl(cluster.open) ?? "" });
  await through.connect();
  const { rows } = await through.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()");
  test.same(rows, [{ ssl: true }], "the gateway follows the leader, and speaks TLS to it");
  await through.end();
  for (const { host, ports } of cluster.open.file.nodes) {
    const pooled = new pg.Client({
      host,
      ...(ports.pooler === undefined ? {} : { port: ports.pooler }),
      user: "app",
      database: "app",
      password: cluster.secret("app.password"),
      ssl: { ca: cluster.authority },
    });
    await pooled.connect();
    const found = await pooled.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()");
    test.same(found.rows, [{ ssl: true }], "a node's own gateway, too, and to its clients");
    await pooled.end();
  }

  const node = cluster.node("n1");
  const address = `${node.host}:${node.ports.grpc}`;
  const own = path.join(cluster.dir, "tls", "cli");
  const files = (dir: string) => ({
    ca: path.join(own, "ca.pem"),
    cert: path.join(dir, "cert.pem"),
    key: path.join(dir, "key.pem"),
  });
  const asks = async (credentials: ReturnType<typeof clientCredentials>): Promise<boolean> => {
    const client = connectSidecar(address, { credentials });
    const answered = await client.getStatus({ deadlineMs: 3_000 }).then(
      () => true,
      () => false,
    );
    client.close();
    return answered;
  };
  test.equal(await asks(clientCredentials(undefined)), false, "without TLS");
  const stranger = mkdtempSync(path.join(tmpdir(), "qtls-"));
  test.teardown(() => rmSync(stranger, { recursive: true }));
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const out = ["-keyout", path.join(stranger, "key.pem"), "-out", path.join(stranger, "cert.pem")];
  await run("openssl", ["req", "-x509", ...key, ...out, "-subj", "/CN=cli"], { timeoutMs: 30_000 });
  test.equal(
    await asks(clientCredentials(files(stranger))),
    false,
    "with a certificate of another authority",
  );
  test.equal(await asks(clientCredentials(files(own))), true, "with the cluster's own");

  const leader = await cluster.leader();
  await postgresIsGuarded(test, cluster, leader);
  await httpIsGuarded(test, cluster);

  const [ca, cert, keyPem] = ["ca.pem", "cert.pem", "key.pem"].map((name) =>
    readFileSync(path.join(own, name)),
  );
  const fingerprint = async (socket: TLSSocket): Promise<string> => {
    await once(socket, "secureConnect");
    const { fingerprint256 } = socket.getPeerCertificate();
    socket.destroy();
    return fingerprint256;
  };
  const { host, ports } = node;
  const shown = {
    gRPC: () =>
      fingerprint(connect({ host, port: ports.grpc, ca, cert, key: keyPem, ALPNProtocols: ["h2"] })),
    HTTP: () => fingerprint(connect({ host, port: ports.http, ca })),
    Postgres: () => fingerprint(connect({ host, port: ports.postgres, ca, ALPNProtocols: ["postgresql"] })),
    "the node's gateway": () =>
      fingerprint(connect({ host, port: ports.pooler ?? 0, ca, ALPNProtocols: ["postgresql"] })),
  };
  /** Of a new connection of the gateway that stands alone, as the Postgres sees it that leads. */
  const serialShown = async (): Promise<string> => {
    const url = new URL(gatewayUrl(cluster.open) ?? "");
    url.searchParams.set("options", "-c quorate.pool=session");
    const client = new pg.Client({ connectionString: url.href });
    await client.connect();
    const sql = "select client_serial from pg_stat_ssl where pid = pg_backend_pid()";
    const [row] = (await client.query<{ client_serial: string }>(sql)).rows;
    await client.end();
    return row?.client_serial ?? "none";
  };
  const serial = await serialShown();
  test.not(serial, "none", "the gateway shows Postgres a certificate");
  const before = await Promise.all(Object.values(shown).map((show) => show()));
  test.equal(new Set(before).size, 1, "all of a node show its one certificate");
  const pids = [cluster.sidecarPid("n1"), cluster.postmasterPid("n1")];
  await verb("certs", "renew");
  for (const [what, show] of Object.entries(shown))
    await poll(async () => (await show()) !== before[0], {
      what: `the renewed certificate over ${what}`,
      timeoutMs: 30_000,
    });
  await poll(async () => (await serialShown()) !== serial, {
    what: "the gateway to show Postgres its renewed certificate",
    timeoutMs: 30_000,
  });
  test.same([cluster.sidecarPid("n1"), cluster.postmasterPid("n1")], pids, "the same processes");
  await verb("switchover");
  await verb("node", "add");
  cluster.reopen();
  await cluster.waitUntilWhole();
  test.same(watch.end(), [], "no secret among any program's arguments");
  test.same(secretsInLogs(cluster.dir, secrets), [], "no secret in any log");
});

/** What a client may, and with what. */
async function postgresIsGuarded(test: Test, cluster: TestCluster, leader: string): Promise<void> {
  const { host, ports } = cluster.node(leader);
  const password = (name: string): string => cluster.secret(`${name}.password`);
  const own = { host, port: ports.postgres, database: "app", ssl: { ca: cluster.authority } };
  const rows = async (config: pg.ClientConfig, sql: string): Promise<unknown[]> => {
    const client = new pg.Client(config);
    await client.connect();
    try {
      return (await client.query(sql)).rows;
    } finally {
      await client.end();
    }
  };
  const standbys =
    "select distinct ssl, client_dn is not null as shown from pg_stat_ssl join pg_stat_replication using (pid)";
  test.same(await rows(cluster.superuser(leader), standbys), [{ ssl: true, shown: true }], "replication");
  const secure = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
  test.same(await rows({ connectionString: cluster.url(leader) }, secure), [{ ssl: true }], "the app's URL");
  await rows({ connectionString: cluster.url(leader) }, "create table private as select 1 as id");

  const monitor = { ...own, user: "quorate_monitor", password: password("monitor") };
  test.equal((await rows(monitor, "select * from pg_stat_replication")).length, 2, "monitoring sees");
  test.ok((await rows(monitor, "select * from quorate.status()")).length > 0);
  await test.rejects(rows(monitor, "select * from private"), { code: "42501" }, "but no data");
  await test.rejects(rows(monitor, "select pg_switch_wal()"), { code: "42501" });

  const control = { ...cluster.superuser(leader, "postgres"), user: "quorate_control" };
  await rows(control, "select pg_backup_start('test'), pg_create_restore_point('test')");
  await rows(control, "select pg_switch_wal()");
  await test.rejects(rows({ ...control, database: "app" }, "select * from private"), { code: "42501" });
  await test.rejects(rows(control, "create table mine (id int)"), { code: "42501" });
  await test.rejects(rows(control, "select rolpassword from pg_authid"), { code: "42501" });

  for (const user of ["postgres", "quorate_control"])
    await test.rejects(
      rows({ ...own, user, password: "x" }, "select 1"),
      { code: "28000" },
      `${user} by TCP`,
    );
  const replication = { ...own, user: "quorate_replication", password: password("replication") };
  await test.rejects(rows(replication, "select 1"), { code: "28000" }, "replication reads no tables");
  await test.rejects(
    // @ts-expect-error: pg passes it on in the startup packet; its types don't know it
    rows({ ...replication, replication: "true" }, "IDENTIFY_SYSTEM"),
    /certificate/,
    "the password of replication alone",
  );
}

async function httpIsGuarded(test: Test, cluster: TestCluster): Promise<void> {
  const { host, ports } = cluster.node("n1");
  const [orchestrator] = cluster.open.file.orchestrators;
  const [gateway] = cluster.open.file.gateways;
  const { tls } = accessOf(cluster.open);
  const token = cluster.secret("api.token");
  const gatewayPort = gateway?.ports.http ?? 0;
  for (const port of [ports.http, orchestrator?.httpPort ?? 0, gatewayPort])
    for (const page of port === gatewayPort ? ["/metrics"] : ["/metrics", "/status"]) {
      const ask = { host, port, path: page, timeoutMs: 5_000 };
      test.equal((await guardedGet({ ...ask, tls })).code, 200, `${page} with a certificate`);
      const get = (headers: Record<string, string>): Promise<number> =>
        new Promise((resolve, reject) => {
          const request = https.get({ host, port, path: page, ca: cluster.authority, headers, agent: false });
          request.on("response", (response) => resolve(response.resume().statusCode ?? 0));
          request.on("error", reject);
        });
      test.equal(await get({ authorization: `Bearer ${token}` }), 200, `${page} with the token`);
      test.equal(await get({}), 401, `${page} without either`);
      await test.rejects(fetch(`http://${host}:${port}${page}`), "in the clear");
    }
  const explained = await quorate("explain", "--json", "--dir", cluster.dir);
  test.notMatch(explained.stdout, /"answers": false/);
}
