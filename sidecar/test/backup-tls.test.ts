/** pgBackRest's own TLS: the data of a node on another machine, and who may have it. */
import { existsSync } from "node:fs";
import { chmod, chown, mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import {
  createLogger,
  freePort,
  makePostgresTempDirectory,
  poll,
  postgresUser,
  run,
  runAsPostgres,
} from "@quorate/common";
import { test } from "tap";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { ensurePgbackrest } from "../../scripts/pgbackrest.ts";
import { type BackupConfig, backupConfigSchema } from "../src/backup/backup-config.ts";
import { prepareBackup } from "../src/backup/backup-environment.ts";
import { Pgbackrest } from "../src/backup/pgbackrest.ts";
import { backupPaths, leaderOptions } from "../src/backup/pgbackrest-conf.ts";
import { TlsServer } from "../src/backup/tls-server.ts";

const owner = postgresUser();
const openssl = ["/usr/bin/openssl", "/usr/local/bin/openssl"].find((file) => existsSync(file));

type Certificate = { readonly certFile: string; readonly keyFile: string; readonly caFile: string };

/** An authority and one certificate of it for 127.0.0.1. */
async function certificate(directory: string, name: string): Promise<Certificate> {
  const at = (file: string) => path.join(directory, `${name}-${file}`);
  const ssl = (...args: string[]) => run(openssl ?? "openssl", args, { timeoutMs: 30_000 });
  const key = (file: string) => [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
    "-keyout",
    file,
  ];
  await ssl(
    "req",
    "-x509",
    ...key(at("ca.key")),
    "-subj",
    "/CN=test authority",
    "-days",
    "2",
    "-out",
    at("ca.crt"),
  );
  await ssl("req", ...key(at("node.key")), "-subj", "/CN=quorate", "-out", at("node.csr"));
  await writeFile(at("ext"), "subjectAltName=IP:127.0.0.1\n");
  const sign = [
    "-CA",
    at("ca.crt"),
    "-CAkey",
    at("ca.key"),
    "-CAcreateserial",
    "-days",
    "2",
    "-extfile",
    at("ext"),
  ];
  await ssl("x509", "-req", "-in", at("node.csr"), ...sign, "-out", at("node.crt"));
  for (const file of ["node.key", "node.crt", "ca.crt"]) {
    await chmod(at(file), 0o600);
    if (owner !== undefined) await chown(at(file), owner.uid, owner.gid);
  }
  return { certFile: at("node.crt"), keyFile: at("node.key"), caFile: at("ca.crt") };
}

const skip = openssl === undefined && "there is no openssl to make certificates with";
test("a node's data over TLS; strangers stay out", { skip }, async (t) => {
  const { bin } = await ensurePostgres({ flavour: "patched" });
  const { command } = await ensurePgbackrest();
  const directory = await makePostgresTempDirectory("quorate-tls-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const at = (...parts: string[]) => path.join(directory, ...parts);
  await runAsPostgres(path.join(bin, "initdb"), [
    "-D",
    at("data"),
    "-U",
    "postgres",
    "-A",
    "trust",
    "--no-sync",
  ]);
  await writeFile(at("key"), "a key\n");
  const port = await freePort();
  const ours = await certificate(directory, "ours");
  const theirs = await certificate(directory, "theirs");
  const postgres = { dataDirectory: at("data"), socketDirectory: directory, port: 5432 };

  const node = async (name: string, input: object) => {
    await mkdir(at(name));
    if (owner !== undefined) await chown(at(name), owner.uid, owner.gid);
    const config = backupConfigSchema.parse({ pgbackrest: command, cipherKeyFile: at("key"), ...input });
    const paths = backupPaths(at(name), config);
    prepareBackup({ config: { host: "127.0.0.1", backup: config }, paths, stanza: "main", postgres, owner });
    return { config, paths, pgbackrest: new Pgbackrest({ config, stanza: "main", paths, owner }) };
  };
  const repository = { type: "posix", path: at("backup") };
  const tlsOf = (files: Certificate, listenPort: number) => ({
    port: listenPort,
    clients: ["quorate"],
    ...files,
  });
  const holder = await node("holder", { repository, tls: tlsOf(ours, port) });
  const peer = await node("peer", { repository, tls: tlsOf(ours, await freePort()) });
  const stranger = await node("stranger", { repository, tls: tlsOf(theirs, await freePort()) });
  /** As for a leader on another machine, but the only Postgres: a backup while it is down needs no second one. */
  const over = ({ config }: { config: BackupConfig }) =>
    leaderOptions(config, { ...postgres, tls: { host: "127.0.0.1", port } })
      .filter((option) => option !== "--backup-standby=y")
      .map((option) => option.replace("--pg2", "--pg1"));

  const logger = createLogger({ name: "test", level: "silent" });
  const { root: cwd, conf } = holder.paths;
  const server = new TlsServer({ command, conf, osUser: "postgres", cwd, logger });
  t.teardown(() => server.end());
  server.start();
  const create = (from: typeof peer) =>
    from.pgbackrest.command("create", [...over(from), "--no-online", "--io-timeout=3", "stanza-create"]);
  await poll(
    () =>
      create(peer).then(
        () => true,
        () => undefined,
      ),
    { what: "the server", timeoutMs: 20_000, intervalMs: 200 },
  );
  await peer.pgbackrest.command("backup", [...over(peer), "--no-online", "--type=full", "backup"]);
  t.match(
    await peer.pgbackrest.info(),
    { kind: "ok", backups: [{ type: "full" }] },
    "all files came over TLS",
  );
  await t.rejects(
    create(stranger),
    { code: "certificate_refused" },
    "a certificate of another authority is refused",
  );
  await server.end();
  await t.rejects(create(peer), { code: "repository_unreachable" });
});
