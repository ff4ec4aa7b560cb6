// quorate certs init, quorate certs renew: an authority of the cluster's own, and a certificate for each node,
// orchestrator and the CLI. Keys never leave their files (0600; a gateway's may be read by its user) and are no argument of any program.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { isIP } from "node:net";
import path from "node:path";
import { run } from "@quorate/common";
import {
  letPostgresRead,
  type OpenCluster,
  openCluster,
  paths,
  writeClusterFile,
  writeJson,
} from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { backupHolders, useBackupCertificates } from "./backup-certs.ts";
import { supervisorPid } from "./down.ts";
import { answer, say } from "./voice.ts";

export const defaultDays = 365;
const authorityDays = 3_650;
const timeoutMs = 30_000;

interface Holder {
  readonly name: string;
  /** Where it is reached; undefined: it only calls others. */
  readonly host: string | undefined;
  /** Its directory tls/ is beside its configuration. */
  readonly dir: string;
  /** To which it belongs, if that isn't its name. */
  readonly node?: string;
  /** It runs as whom Postgres runs as. */
  readonly postgresReads?: boolean;
}

function holders(cluster: OpenCluster): Holder[] {
  const { dir, file } = cluster;
  return [
    ...file.nodes.map(({ id, host }) => ({ name: id, host, dir: path.join(paths.node(dir, id), "tls") })),
    ...file.orchestrators.map(({ id, host }) => ({
      name: id,
      host,
      dir: path.join(paths.orchestrator(dir, id), "tls"),
    })),
    ...file.gateways.map(({ id, host }) => ({
      name: id,
      host,
      dir: path.join(paths.gateway(dir, id), "tls"),
      postgresReads: true,
    })),
    { name: "cli", host: undefined, dir: path.join(dir, "tls", "cli") },
    ...backupHolders(cluster),
  ];
}

async function openssl(...args: string[]): Promise<void> {
  await run("openssl", args, { timeoutMs });
}

const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** Everything in a directory of its own first: a certificate and its key appear together. */
async function issue(authority: string, holder: Holder, days: number): Promise<void> {
  mkdirSync(holder.dir, { recursive: true, mode: 0o700 });
  const work = mkdtempSync(path.join(holder.dir, "new-"));
  const at = (name: string): string => path.join(work, name);
  try {
    writeFileSync(at("key.pem"), "", { mode: 0o600 });
    await openssl(
      "req",
      ...newKey,
      "-keyout",
      at("key.pem"),
      "-out",
      at("csr.pem"),
      "-subj",
      `/CN=${holder.name}`,
    );
    const names = [`DNS:${holder.name}`];
    if (holder.host !== undefined) names.push(`${isIP(holder.host) === 0 ? "DNS" : "IP"}:${holder.host}`);
    const extensions = ["extendedKeyUsage=serverAuth,clientAuth", `subjectAltName=${names.join(",")}`, ""];
    writeFileSync(at("extensions"), extensions.join("\n"));
    const ca = [
      "-CA",
      path.join(authority, "ca.pem"),
      "-CAkey",
      path.join(authority, "ca.key"),
      "-CAcreateserial",
    ];
    const out = ["-days", String(days), "-extfile", at("extensions"), "-out", at("cert.pem")];
    await openssl("x509", "-req", "-in", at("csr.pem"), ...ca, ...out);
    chmodSync(at("key.pem"), 0o600);
    writeFileSync(path.join(holder.dir, "ca.pem"), readFileSync(path.join(authority, "ca.pem")));
    if (holder.postgresReads === true) {
      letPostgresRead(holder.dir, 0o710);
      for (const name of [at("key.pem"), at("cert.pem"), path.join(holder.dir, "ca.pem")])
        letPostgresRead(name);
    }
    for (const name of ["key.pem", "cert.pem"]) renameSync(at(name), path.join(holder.dir, name));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function use(file: string, tls: object): void {
  const config = JSON.parse(readFileSync(file, "utf8")) as object;
  writeJson(file, { ...config, tls });
}

/** What a gateway shows to sidecars; what it shows to its clients is another matter. */
function useForSidecars(file: string): void {
  const config = JSON.parse(readFileSync(file, "utf8")) as object;
  writeJson(file, { ...config, sidecarTls: beside });
}

const beside = { ca: "tls/ca.pem", cert: "tls/cert.pem", key: "tls/key.pem" };

export async function certsInit(dir: string, days = defaultDays): Promise<void> {
  const cluster = openCluster(dir);
  if (supervisorPid(dir) !== undefined)
    throw orchestratorErrors.error(
      "bad_option",
      'the cluster runs: all parts must begin with certificates at once; "quorate down", then this again, then "quorate up"',
    );
  const authority = path.join(dir, "tls");
  if (existsSync(path.join(authority, "ca.key")))
    throw orchestratorErrors.error(
      "bad_option",
      `there is an authority in ${authority} already: "quorate certs renew" makes new certificates`,
    );
  mkdirSync(authority, { recursive: true, mode: 0o700 });
  const key = path.join(authority, "ca.key");
  writeFileSync(key, "", { mode: 0o600 });
  const subject = ["-subj", `/CN=quorate ${cluster.file.cluster}`, "-days", String(authorityDays)];
  await openssl(
    "req",
    "-x509",
    ...newKey,
    "-keyout",
    key,
    "-out",
    path.join(authority, "ca.pem"),
    ...subject,
  );
  chmodSync(key, 0o600);
  for (const holder of holders(cluster)) await issue(authority, holder, days);
  for (const { id } of cluster.file.nodes) use(paths.sidecarConfig(dir, id), beside);
  useBackupCertificates(cluster);
  for (const { id } of cluster.file.orchestrators) use(paths.orchestratorConfig(dir, id), beside);
  for (const { id } of cluster.file.gateways) useForSidecars(paths.gatewayConfig(dir, id));
  const cli = { ca: "tls/cli/ca.pem", cert: "tls/cli/cert.pem", key: "tls/cli/key.pem" };
  writeClusterFile(dir, { ...cluster.file, tls: cli });
  say(`certificates for ${days} days are made; keep ${key} safe. "quorate up" starts the cluster with them`);
  answer({ authority, days });
}

/** True also in a cluster without certificates: it needs none. */
export function hasCerts(cluster: OpenCluster, id: string): boolean {
  return (
    cluster.file.tls === undefined || existsSync(path.join(paths.node(cluster.dir, id), "tls", "key.pem"))
  );
}

/** For a node that is added; nothing to do in a cluster without certificates. */
export async function certsFor(cluster: OpenCluster, id: string): Promise<void> {
  if (cluster.file.tls === undefined) return;
  for (const holder of holders(cluster))
    if (holder.name === id || holder.node === id)
      await issue(path.join(cluster.dir, "tls"), holder, defaultDays);
}

/** The running processes take the new ones by themselves. */
export async function certsRenew(dir: string, days = defaultDays): Promise<void> {
  const cluster = openCluster(dir);
  const authority = path.join(dir, "tls");
  if (!existsSync(path.join(authority, "ca.key")))
    throw orchestratorErrors.error(
      "bad_option",
      `there is no authority in ${authority}: begin with "quorate certs init"`,
    );
  for (const holder of holders(cluster)) await issue(authority, holder, days);
  say(`new certificates for ${days} days; running processes use them within seconds`);
  answer({ authority, days });
}
