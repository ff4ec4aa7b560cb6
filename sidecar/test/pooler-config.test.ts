/** What a sidecar tells the gateway that it runs for its node's clients. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "@quorate/gateway/config.ts";
import t from "tap";
import { loadSidecarConfig, type SidecarConfigInput } from "../src/config.ts";
import { poolerConfig, sidecarsOf } from "../src/pooler/pooler-config.ts";
import { PoolerFiles } from "../src/pooler/pooler-files.ts";

const directory = mkdtempSync(join(tmpdir(), "quorate-pooler-"));
t.teardown(() => rmSync(directory, { recursive: true }));

function load(changes: Partial<SidecarConfigInput> = {}) {
  const config: SidecarConfigInput = {
    cluster: "main",
    node: { id: "n2", zone: "b" },
    ports: { postgres: 5502, grpc: 5512, http: 5522, pooler: 5542, poolerRead: 5552 },
    postgres: { binDir: "bin" },
    tokenFile: "token",
    replication: { passwordFile: "replication" },
    app: { passwordFile: "app" },
    gateway: { passwordFile: "gateway" },
    ...changes,
  };
  const file = join(directory, "sidecar.json");
  writeFileSync(file, JSON.stringify(config));
  return loadSidecarConfig(file);
}

const ruleset = (...grpc: readonly string[]): string =>
  JSON.stringify({
    cohort: grpc.map((address, at) => ({ id: `n${at + 1}`, properties: { grpc: address } })),
  });

t.test("whom it asks: its own sidecar first, then those of the rules", async (test) => {
  const config = load();
  const own = { host: "127.0.0.1", grpcPort: 5512 };
  test.same(sidecarsOf(config, undefined), [own]);
  test.same(sidecarsOf(config, "no JSON"), [own]);
  test.same(sidecarsOf(config, ruleset("10.0.0.1:5511", "elsewhere:1", "[fd00::3]:5513")), [
    own,
    { host: "10.0.0.1", grpcPort: 5511 },
    { host: "fd00::3", grpcPort: 5513 },
  ]);
});

t.test("what it is told is a configuration, with the operator's settings in it", async (test) => {
  const plain = load();
  const given = parseConfig(poolerConfig(plain, sidecarsOf(plain, undefined), undefined), "/srv/n2/pooler");
  test.match(given, {
    home: "n2",
    zone: "b",
    listen: { host: "127.0.0.1", port: 5542, readPort: 5552 },
    authentication: { user: "quorate_gateway", passwordFile: "/srv/n2/pooler/password" },
    sidecarTokenFile: "/srv/n2/pooler/token",
    admin: { users: ["app"] },
    drainMs: 3_000,
    budget: { lease: true },
  });
  test.equal(given.tls, undefined);
  test.equal(given.runAs, undefined);
  const changed = load({
    pooler: { workers: 2, limits: { requestMs: 5_000 }, overrides: [{ user: "x", size: 1 }] },
  });
  test.match(parseConfig(poolerConfig(changed, sidecarsOf(changed, undefined), "postgres"), "/"), {
    workers: 2,
    runAs: "postgres",
    limits: { requestMs: 5_000, clients: 20_000 },
    overrides: [{ user: "x", size: 1 }],
    admin: { users: ["app"] },
    drainMs: 3_000,
  });
});

t.test("TLS is wanted of other machines where Postgres wants it", async (test) => {
  const tls = { ca: "ca.pem", cert: "cert.pem", key: "key.pem" };
  const of = (changes: Partial<SidecarConfigInput>) => {
    const config = load({ tls, ...changes });
    return poolerConfig(config, sidecarsOf(config, undefined), undefined);
  };
  const certFile = "cert.pem";
  test.match(of({}), { tls: { certFile, required: false }, sidecarTls: { cert: certFile } });
  test.match(of({ host: "10.0.0.2" }), { tls: { required: true } });
  test.match(of({ host: "10.0.0.2", postgres: { binDir: "bin", allowPlain: true } }), {
    tls: { required: false },
  });
});

t.test("what it reads are copies of its own, made anew when the originals change", async (test) => {
  const config = load();
  const [token, password] = [join(directory, "token"), join(directory, "gateway")];
  writeFileSync(token, "abc\n");
  writeFileSync(password, "secret\n");
  const own = join(directory, "pooler");
  const files = new PoolerFiles(own, config, undefined);
  test.equal(files.copySecrets(), true);
  test.equal(readFileSync(files.at("token"), "utf8"), "abc\n");
  test.equal(statSync(files.at("password")).mode & 0o777, 0o600);
  test.equal(statSync(own).mode & 0o777, 0o700);
  test.equal(files.copySecrets(), false, "nothing has changed");
  writeFileSync(password, "another\n");
  test.equal(files.copySecrets(), true);
  test.equal(readFileSync(files.at("password"), "utf8"), "another\n");
  rmSync(password);
  test.throws(() => files.copySecrets());
  test.equal(readFileSync(files.at("password"), "utf8"), "another\n", "what was there stays");
});

t.test("what can't work is refused, and said", async (test) => {
  const ports = { postgres: 5502, grpc: 5512, http: 5522 };
  test.throws(() => load({ gateway: undefined as never }), /ports\.pooler needs the gateways' own account/);
  test.throws(() => load({ ports: { ...ports, pooler: 5502 } }), /all ports must be different/);
  test.throws(() => load({ ports: { ...ports, poolerRead: 5552 } }), /ports\.poolerRead needs ports\.pooler/);
  test.throws(() => load({ pooler: { pool: { size: 0 } } }), /pooler\.pool\.size/);
  test.throws(() => load({ pooler: { listen: { port: 1 } } as never }), /pooler.*listen/);
});
