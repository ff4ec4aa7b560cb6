/**
 * postgres.js's suite, unchanged, from a checkout that POSTGRESJS_SOURCE names: its package has no tests. Only its
 * harness is replaced, which would stop at the first failure (postgresjs-harness.ts).
 */
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import * as net from "node:net";
import path from "node:path";
import { makePostgresTempDirectory, run, runAsPostgres } from "@quorate/common";
import { admit, type Suite, type Target, withTarget } from "./context.ts";
import { type Results, resultLines } from "./verdict.ts";

/** Two of its tests connect to this port, whatever the environment says. */
const fixedPort = 5432;

async function relayFrom(port: number, to: number): Promise<net.Server | undefined> {
  const relay = net.createServer((client) => {
    const server = net.connect(to, "127.0.0.1");
    client.pipe(server).pipe(client);
    for (const each of [client, server]) each.on("error", () => [client, server].map((one) => one.destroy()));
  });
  return new Promise((resolve) => {
    relay.once("error", () => resolve(undefined)); // the port is taken: those two tests fail both ways
    relay.listen(port, "127.0.0.1", () => resolve(relay));
  });
}

/** With the gateway in front, the suite's passwords are not the server's business. */
const hba = {
  direct: [
    "host all postgres 127.0.0.1/32 trust",
    "host all postgres_js_test 127.0.0.1/32 trust",
    "host all postgres_js_test_md5 127.0.0.1/32 md5",
    "host all postgres_js_test_scram 127.0.0.1/32 scram-sha-256",
  ],
  through: ["host all all 127.0.0.1/32 trust"],
};

async function settle({ postgres, way }: Target, certificates: string): Promise<void> {
  await admit(postgres, hba[way]);
  await postgres.sql(`alter system set ssl_cert_file = '${certificates}/server.crt'`);
  await postgres.sql(`alter system set ssl_key_file = '${certificates}/server.key'`);
  await postgres.sql("select pg_reload_conf()");
}

async function makeCertificate(directory: string): Promise<void> {
  const key = path.join(directory, "server.key");
  const args = ["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"];
  await runAsPostgres("openssl", [...args, "-keyout", key, "-out", path.join(directory, "server.crt")], {
    timeoutMs: 60_000,
  });
}

async function read(file: string): Promise<Results> {
  const [count, ...lines] = (await readFile(file, "utf8")).split("\n").filter(Boolean);
  if (lines.length !== Number(count)) throw new Error(`only ${lines.length} of ${count} tests were run`);
  return resultLines(lines);
}

const source = (): string => path.resolve(process.env["POSTGRESJS_SOURCE"] ?? "");

export const postgresjs: Suite = {
  title: "postgres.js's suite",
  known: [
    {
      test: /^listen (reconnects|result reports correct connection state after reconnection)$/,
      reason:
        "the process id of the protocol is of the gateway's making: nothing to terminate by pg_terminate_backend",
    },
    {
      test: "requests works after single connect_timeout",
      reason: "it gives a connection a millisecond, within which the gateway may have let it in",
    },
    {
      test: "throws correct error when authentication fails",
      reason: "some of the suite's users have no password: the gateway of this judge asks nobody for one",
    },
  ],
  async prepare() {
    if ((process.env["POSTGRESJS_SOURCE"] ?? "") === "")
      return "npm's package has no tests: name a checkout of postgres.js with POSTGRESJS_SOURCE";
    if (!existsSync(path.join(source(), "tests/index.js"))) return `no tests/index.js in ${source()}`;
    return undefined;
  },
  async run(way) {
    const certificates = await makePostgresTempDirectory("gateway-postgresjs-");
    await makeCertificate(certificates);
    const tls = {
      certFile: path.join(certificates, "server.crt"),
      keyFile: path.join(certificates, "server.key"),
    };
    try {
      return await withTarget(
        way,
        { max_prepared_transactions: 10 },
        async (target) => {
          await settle(target, certificates);
          const relay = await relayFrom(fixedPort, target.port);
          const file = path.join(certificates, `${way}.jsonl`);
          const harness = path.join(import.meta.dirname, "postgresjs-harness.ts");
          const hook = path.join(import.meta.dirname, "postgresjs-hook.ts");
          const bin = target.postgres.build.bin;
          const env = {
            PATH: `${bin}:${process.env["PATH"]}`,
            PGHOST: "127.0.0.1",
            PGPORT: String(target.port),
            PGUSER: "postgres",
            JUDGE_HARNESS: harness,
            JUDGE_RESULTS: file,
          };
          try {
            const { code, stderr } = await run(process.execPath, ["--import", hook, "tests/index.js"], {
              cwd: source(),
              env,
              timeoutMs: 600_000,
              okCodes: [0, 1],
            });
            if (!existsSync(file))
              throw new Error(`no test was run (exit code ${code}): ${stderr.slice(-500)}`);
            return await read(file);
          } finally {
            relay?.close();
          }
        },
        { gateway: { tls } },
      );
    } finally {
      await rm(certificates, { recursive: true, force: true });
    }
  },
};
