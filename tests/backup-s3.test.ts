// A repository in S3-compatible storage: a real server of that kind (s3rver), over TLS, with an authority of its own.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { freePort, isAlive, poll, run } from "@quorate/common";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { test } from "tap";
import {
  archiveNow,
  loseDisk,
  prepareBackupCluster,
  restored,
  start,
  waitForBackups,
} from "./lib/backup-cluster.ts";
import { quorate } from "./lib/cluster.ts";
import { withClient } from "./lib/contents.ts";

const bucket = "quorate-test";
/** The only ones that s3rver knows. It refuses other keys; signatures of this kind it doesn't check. */
const credentials = { key: "S3RVER", secret: "S3RVER" };

async function certificates(directory: string): Promise<void> {
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const at = (name: string): string => path.join(directory, name);
  const openssl = (...args: string[]) => run("openssl", args, { timeoutMs: 30_000 });
  const days = ["-days", "2"];
  await openssl(
    "req",
    "-x509",
    ...newKey,
    "-keyout",
    at("ca.key"),
    "-out",
    at("ca.pem"),
    "-subj",
    "/CN=s3",
    ...days,
  );
  await openssl("req", ...newKey, "-keyout", at("key.pem"), "-out", at("csr.pem"), "-subj", "/CN=127.0.0.1");
  writeFileSync(at("extensions"), "subjectAltName=IP:127.0.0.1\n");
  const ca = ["-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial"];
  const out = [...days, "-extfile", at("extensions"), "-out", at("cert.pem")];
  await openssl("x509", "-req", "-in", at("csr.pem"), ...ca, ...out);
}

function serve(directory: string, port: number): ChildProcess {
  const program = path.join(
    path.dirname(createRequire(import.meta.url).resolve("s3rver")),
    "../bin/s3rver.js",
  );
  const where = [
    "--directory",
    path.join(directory, "store"),
    "--address",
    "127.0.0.1",
    "--port",
    String(port),
  ];
  const tls = ["--key", path.join(directory, "key.pem"), "--cert", path.join(directory, "cert.pem")];
  const rest = ["--no-vhost-buckets", "--configure-bucket", bucket, "--silent"];
  return spawn(process.execPath, [program, ...where, ...tls, ...rest], { stdio: "ignore" });
}

test("a repository in S3-compatible storage", async (t) => {
  const port = await freePort();
  let server: ChildProcess | undefined;
  t.teardown(() => {
    server?.kill("SIGKILL");
  });
  const cluster = await prepareBackupCluster(t, {
    backup: (usual, dir) => {
      const at = (name: string): string => path.join(dir, "s3", name);
      return {
        ...usual,
        repository: {
          type: "s3",
          bucket,
          endpoint: "127.0.0.1",
          uriStyle: "path",
          port,
          keyFile: at("access.key"),
          keySecretFile: at("secret.key"),
          caFile: at("ca.pem"),
        },
      };
    },
  });
  const s3 = path.join(cluster.dir, "s3");
  mkdirSync(s3, { mode: 0o755 });
  await certificates(s3);
  writeFileSync(path.join(s3, "access.key"), "STRANGER\n", { mode: 0o600 });
  writeFileSync(path.join(s3, "secret.key"), `${credentials.secret}\n`, { mode: 0o600 });
  server = serve(s3, port);
  await start(cluster);
  const refused = await waitForBackups(cluster, "the refusal of the wrong key", ({ alarms }) =>
    alarms.find(({ code }) => code === "wrong_repository_key"),
  );
  t.match(refused.todo, /keyFile and keySecretFile/, "and where the right one goes");
  writeFileSync(path.join(s3, "access.key"), `${credentials.key}\n`);
  for (const id of cluster.ids) cluster.killSidecar(id); // they read it when they start
  const first = await waitForBackups(cluster, "the first backup", ({ last }) => last ?? undefined);
  t.equal(first.type, "full");
  await cluster.waitUntilWhole(120_000);
  await withClient(cluster.url(await cluster.leader()), (client) =>
    client.query(
      "create table stored as select n, repeat('s3', 500) as t from generate_series(1, 5000) as n",
    ),
  );
  await archiveNow(cluster);
  const objects = readdirSync(path.join(s3, "store", bucket, "quorate/archive/main"), { recursive: true });
  t.ok(
    objects.some((name) => /[0-9A-F]{24}-[0-9a-f]{40}\.zst/.test(String(name))),
    "WAL is in the bucket",
  );

  const leader = await cluster.leader();
  const id = cluster.ids.find((each) => each !== leader) ?? "";
  await loseDisk(cluster, id);
  await cluster.waitUntilWhole(120_000);
  t.match(
    cluster.log(id, "sidecar"),
    /restoring from the backup/,
    "a lost disk is made anew from the bucket",
  );

  const other = await restored(t, cluster, ["latest", "--check"]);
  const rows = await withClient(
    other.url(await other.leader()),
    async (client) => (await client.query<{ n: number }>("select count(*)::int as n from stored")).rows[0]?.n,
  );
  t.equal(rows, 5000, "a cluster restored from the bucket");
  t.equal((await quorate("backup", "verify", "--dir", cluster.dir)).code, 0);

  server.kill("SIGKILL");
  await poll(() => !isAlive(server?.pid ?? 0) || undefined, {
    what: "the server's end",
    timeoutMs: 10_000,
  });
  const away = await quorate("backup", "list", "--dir", cluster.dir);
  t.equal(away.code, 1);
  t.match(away.stderr, /the repository can't be reached/);
  const secret = readFileSync(paths.repositoryKey(cluster.dir), "utf8").trim();
  for (const each of cluster.ids) t.notOk(cluster.log(each, "sidecar").includes(secret), "no key in a log");
  const last = await cluster.leader();
  await cluster.down();
  const log = cluster.log(last, "sidecar");
  const stopping = log.slice(log.lastIndexOf('"stopping"'));
  t.match(stopping, /Postgres stopped \(fast\)/, "a stop doesn't wait for storage that is away");
});
