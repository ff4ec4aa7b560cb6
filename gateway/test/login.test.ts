import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, poll, run } from "@quorate/common";
import pg from "pg";
import t from "tap";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";

t.setTimeout(180_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
await postgres.sql(
  "create role alice login password 'wonderland'; create role nologin password 'x'; " +
    "create role late login password 'y' valid until '2001-01-01'; create role nopass login; " +
    "create role repl login replication password 'stream'; create database other owner alice",
);

const directory = mkdtempSync(path.join(tmpdir(), "gateway-tls-"));
t.teardown(() => rmSync(directory, { recursive: true }));
const certFile = path.join(directory, "cert.pem");
const keyFile = path.join(directory, "key.pem");
execFileSync(
  "openssl",
  [
    ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost".split(
      " ",
    ),
    "-keyout",
    keyFile,
    "-out",
    certFile,
  ],
  { stdio: "ignore" },
);

const gateway = await startTestGateway(
  { host: "127.0.0.1", port: postgres.port },
  { authentication: { method: "scram", user: "postgres", keepMs: 0 }, tls: { certFile, keyFile } },
);
t.teardown(() => gateway.close());

const psql = async (conninfo: string, sql: string, password: string): Promise<string> => {
  const program = path.join(postgres.build.bin, "psql");
  const args = ["-X", "-A", "-t", "-d", `host=127.0.0.1 port=${gateway.port} ${conninfo}`, "-c", sql];
  return (await run(program, args, { env: { PGPASSWORD: password }, timeoutMs: 20_000 })).stdout.trim();
};
const failure = async (conninfo: string, password: string): Promise<string> => {
  try {
    await psql(conninfo, "select 1", password);
  } catch (error) {
    return messageOf(error);
  }
  return "it succeeded";
};

t.test("SCRAM is passed through: the server sees the user, no one keeps a password", async (t) => {
  t.equal(
    await psql("user=alice dbname=other sslmode=disable", "select current_user", "wonderland"),
    "alice",
  );
  t.equal(
    await psql("user=alice dbname=other sslmode=disable", "select current_user", "wonderland"),
    "alice",
  );
  t.match(
    await failure("user=alice dbname=other", "wrong"),
    /password authentication failed for user "alice"/,
  );
  t.match(await failure("user=nobody dbname=other", "x"), /password authentication failed for user "nobody"/);
  t.match(await failure("user=nologin dbname=other", "x"), /not permitted to log in/);
  t.match(await failure("user=late dbname=other", "y"), /password authentication failed/);
  t.match(await failure("user=nopass dbname=other", "z"), /password authentication failed/);
  t.match(await failure("user=alice dbname=missing", "wonderland"), /database "missing" does not exist/);
});

t.test("a new password counts at once", async (t) => {
  await postgres.sql("alter role alice password 'mirror'");
  t.match(await failure("user=alice dbname=other", "wonderland"), /password authentication failed/);
  t.equal(await psql("user=alice dbname=other", "select 1", "mirror"), "1");
});

t.test("what is remembered of users is forgotten when it may be wrong", async (t) => {
  const remembering = await startTestGateway(
    { host: "127.0.0.1", port: postgres.port },
    { authentication: { method: "scram", user: "postgres", keepMs: 3_600_000 } },
  );
  t.teardown(() => remembering.close());
  const logIn = async (password: string, port = remembering.port): Promise<string> => {
    const client = new pg.Client({ host: "127.0.0.1", port, user: "bob", password, database: "postgres" });
    client.on("error", () => {});
    await client.connect();
    const [row] = (await client.query<{ name: string }>("select current_user as name")).rows;
    await client.end();
    return row?.name ?? "";
  };
  await postgres.sql("create role bob login superuser password 'one'");
  const bob = await remembering.client({ user: "bob", password: "one" });
  await bob.query("alter role bob password 'two'");
  t.equal(await logIn("two"), "bob", "changed through this gateway: at once");
  await bob.query("begin");
  await bob.query("alter role bob password 'never'");
  await bob.query("rollback");
  t.equal(await logIn("two"), "bob", "what was rolled back isn't");
  await postgres.sql("alter role bob password 'three'");
  // Who is refused too often within a second isn't looked up each time.
  await poll(() => logIn("three").catch(() => undefined), {
    what: "a password that was changed elsewhere to count",
    timeoutMs: 10_000,
  });
  await t.rejects(logIn("two"), /password authentication failed/);
  await bob.end();
});

t.test("TLS: asked for, direct, with channel binding", async (t) => {
  t.equal(
    await psql("user=alice dbname=other sslmode=require channel_binding=require", "select 1", "mirror"),
    "1",
  );
  t.equal(
    await psql("user=alice dbname=other sslmode=require sslnegotiation=direct", "select 2", "mirror"),
    "2",
  );
  t.equal(
    await psql(
      `user=alice dbname=other sslmode=verify-ca channel_binding=require sslrootcert=${certFile}`,
      "select 3",
      "mirror",
    ),
    "3",
  );
  const big = await psql("user=alice dbname=other sslmode=require", "select repeat('x', 3000000)", "mirror");
  t.equal(big.length, 3_000_000);
});

t.test("protocol 3.2 and startup parameters", async (t) => {
  t.equal(await psql("user=alice dbname=other max_protocol_version=latest", "select 1", "mirror"), "1");
  const options = "options='-c work_mem=7MB --statement_timeout=12s' application_name=here";
  t.equal(await psql(`user=alice dbname=other ${options}`, "show work_mem", "mirror"), "7MB");
  t.equal(await psql(`user=alice dbname=other ${options}`, "show statement_timeout", "mirror"), "12s");
  t.equal(await psql(`user=alice dbname=other ${options}`, "reset work_mem", "mirror"), "RESET");
  t.equal(await psql("user=alice dbname=other", "show work_mem", "mirror"), "4MB");
  t.match(
    await failure("user=alice dbname=other options='-c nonsense=1'", "mirror"),
    /unrecognized configuration parameter "nonsense"/,
  );
});

t.test("replication connections are passed through", async (t) => {
  const repl = (sql: string) => psql("user=repl dbname=other replication=database", sql, "stream");
  t.match(await repl("IDENTIFY_SYSTEM"), /\|other$/);
  t.match(await psql("user=repl dbname=other replication=true", "SHOW wal_level", "stream"), /logical/);
});
