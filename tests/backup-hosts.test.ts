// Nodes on different hosts, the repository on the disk of one of them: everything goes over pgBackRest's own TLS, with
// the certificates of `quorate certs`, and nobody else is let in.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { connect } from "node:tls";
import { findOsUser, freePort, makePostgresTempDirectory, poll, run, runAsPostgres } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { type Test, test } from "tap";
import { ensurePgbackrest } from "../scripts/pgbackrest.ts";
import {
  archiveNow,
  changeSidecarConfig,
  eventsOf,
  loseDisk,
  prepareBackupCluster,
  start,
  waitForBackups,
} from "./lib/backup-cluster.ts";
import { quorate, type TestCluster } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";

const hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
const holder = "n2";

test("a repository on one node's disk, reached over TLS", async (t) => {
  const port = await freePort();
  const repository = (dir: string) =>
    ({ type: "posix", path: path.join(dir, "backup"), host: hosts[1] as string }) as const;
  const cluster = await prepareBackupCluster(t, {
    hosts,
    backup: (usual, dir) => ({ ...usual, repository: repository(dir), schedule: { incr: "* * * * *" } }),
  });
  const certs = await quorate("certs", "init", "--dir", cluster.dir);
  t.equal(certs.code, 0, certs.stderr);
  for (const id of cluster.ids)
    changeSidecarConfig(cluster, id, (config) => {
      const { backup } = config;
      if (backup?.tls === undefined) throw new Error(`certs init left ${id} without backup.tls`);
      return { ...config, backup: { ...backup, tls: { ...backup.tls, port } } };
    });
  await story(t, cluster, port);
});

async function story(t: Test, cluster: TestCluster, port: number): Promise<void> {
  await start(cluster);
  await waitForBackups(cluster, "the first backup", ({ last }) => last !== null);
  const [first] = await eventsOf(cluster, "backup");
  t.match(
    first,
    { by: holder, ok: true, reason: "there is no backup yet" },
    "by the node that has the repository",
  );
  const leader = await cluster.leader();
  t.not(leader, holder, "from a leader on another host");
  const conf = readFileSync(path.join(paths.node(cluster.dir, leader), "backup/pgbackrest.conf"), "utf8");
  const key = readFileSync(paths.repositoryKey(cluster.dir), "utf8").trim();
  t.notOk(conf.includes(key), "a node without the repository has no key of it");
  t.notMatch(conf, /repo1-path/);

  await withClient(cluster.url(leader), async (client) => {
    await client.query("create table far as select generate_series(1, 1000) as n");
  });
  await archiveNow(cluster);
  const lost = cluster.ids.find((id) => id !== leader && id !== holder) as string;
  await loseDisk(cluster, lost);
  await cluster.waitUntilWhole(120_000);
  t.match(cluster.log(lost, "sidecar"), /restoring from the backup/, "a lost disk is made anew over TLS");

  await strangers(t, conf);
  await renewed(t, cluster, port);

  const before = (await cluster.picture()).backup?.last?.label;
  await poll(
    async () => (await quorate("switchover", "--to", holder, "--dir", cluster.dir)).code === 0 || undefined,
    { what: `${holder} to lead`, timeoutMs: 120_000 },
  );
  await waitForBackups(
    cluster,
    "a backup that the leader makes",
    ({ last }) => last !== null && last.label !== before,
  );
  const log = readFileSync(path.join(paths.node(cluster.dir, holder), "backup/log/main-backup.log"), "utf8");
  t.match(
    log.slice(log.lastIndexOf("backup command begin")),
    /--pg2-host=127\.0\.0\.[13]/,
    "a follower's files",
  );
  await archiveNow(cluster);
  const asked = await quorate("backup", "now", "--dir", cluster.dir);
  t.equal(asked.code, 0, asked.stderr);
  t.equal((await quorate("backup", "verify", "--dir", cluster.dir)).code, 0, "verified over there");
  const told = [...(await eventsOf(cluster, "backup")), ...(await eventsOf(cluster, "verify"))];
  t.match(
    told.filter(({ by }) => by === "operator").map(({ row, ok }) => ({ row, ok })),
    [
      { row: "backup", ok: true },
      { row: "verify", ok: true },
    ],
    "what an operator asked for is in the audit trail, too",
  );
}

/** With another certificate than a node's, or with none, pgBackRest's server tells nothing. */
async function strangers(t: Test, conf: string): Promise<void> {
  const { command } = await ensurePgbackrest();
  const directory = await makePostgresTempDirectory("quorate-stranger-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const at = (name: string): string => path.join(directory, name);
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const out = ["-keyout", at("key.pem"), "-out", at("cert.pem")];
  await run("openssl", ["req", "-x509", ...newKey, ...out, "-subj", "/CN=quorate-backup"], {
    timeoutMs: 30_000,
  });
  const owner = findOsUser("postgres");
  if (process.getuid?.() === 0) await run("chown", ["-R", `${owner?.uid}:${owner?.gid}`, directory]);
  const own = conf
    .replace(/^log-path=.*$/m, `log-path=${directory}`)
    .replace(/^lock-path=.*$/m, `lock-path=${directory}`);
  const info = async (text: string) => {
    await writeFile(at("pgbackrest.conf"), text);
    const args = [`--config=${at("pgbackrest.conf")}`, "--stanza=main", "--io-timeout=5"];
    const okCodes = Array.from({ length: 128 }, (_, i) => i);
    return runAsPostgres(command, [...args, "repo-ls"], { okCodes, cwd: directory, timeoutMs: 60_000 });
  };
  const let_in = await info(own);
  t.match(let_in, { code: 0, stdout: /archive\nbackup/ }, "a node's own certificate is let in");
  const other = own
    .replace(/^(repo1-host-cert-file)=.*$/m, `$1=${at("cert.pem")}`)
    .replace(/^(repo1-host-key-file)=.*$/m, `$1=${at("key.pem")}`);
  const none = own.replace(/^repo1-host-(cert|key)-file=.*\n/gm, "");
  for (const [what, text] of [
    ["a certificate of the same name, of another authority", other],
    ["no certificate", none],
  ] as const) {
    const refused = await info(text);
    t.not(refused.code, 0, what);
    t.notMatch(refused.stdout, /archive|backup/, `${what}: nothing is told`);
  }
}

async function renewed(t: Test, cluster: TestCluster, port: number): Promise<void> {
  const shown = async (): Promise<string> => {
    const tls = path.join(paths.node(cluster.dir, holder), "tls/backup");
    const [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map((name) =>
      readFileSync(path.join(tls, name)),
    );
    const socket = connect({ host: hosts[1], port, ca, cert, key });
    await once(socket, "secureConnect");
    const { fingerprint256 } = socket.getPeerCertificate();
    socket.destroy();
    return fingerprint256;
  };
  const before = await shown();
  t.equal((await quorate("certs", "renew", "--dir", cluster.dir)).code, 0);
  await poll(async () => ((await shown().catch(() => before)) === before ? undefined : true), {
    what: "pgBackRest's server to show its new certificate",
    timeoutMs: 30_000,
  });
  await archiveNow(cluster);
}
