/** TLS towards a server; the server is another gateway here. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createSecureContext, type SecureContext } from "node:tls";
import t from "tap";
import { NetTransport } from "../src/transport/net-transport.ts";
import { startup } from "../src/wire/build.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";

t.setTimeout(180_000);
const postgres = await startPostgres();
t.teardown(() => postgres.stop());
const directory = mkdtempSync(path.join(tmpdir(), "gateway-server-tls-"));
t.teardown(() => rmSync(directory, { recursive: true }));
const certFile = path.join(directory, "cert.pem");
const keyFile = path.join(directory, "key.pem");
const request =
  "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:db.example,IP:127.0.0.1";
execFileSync("openssl", [...request.split(" "), "-keyout", keyFile, "-out", certFile], { stdio: "ignore" });
const trusting = createSecureContext({ ca: readFileSync(certFile) });
const server = { host: "127.0.0.1", port: postgres.port };

/** What comes of connecting and sending a startup packet. */
function attempt(port: number, context: SecureContext, servername?: string): Promise<string> {
  return new Promise((resolve) => {
    const transport = new NetTransport((error) => resolve(String(error)));
    const hello = startup([["user", "postgres"]]);
    const link = transport.connect(
      {
        host: "127.0.0.1",
        port,
        timeoutMs: 30_000,
        tls: { context, ...(servername === undefined ? {} : { servername }) },
      },
      {
        connected: () => link.send(hello, 0, hello.length),
        data(bytes, start) {
          link.close();
          resolve(String.fromCharCode(bytes[start] as number));
        },
        drained() {},
        closed: resolve,
      },
    );
  });
}

t.test("with a certificate that is trusted, and only so", async (t) => {
  const secure = await startTestGateway(server, { tls: { certFile, keyFile } });
  t.equal(await attempt(secure.port, trusting), "R", "by its address");
  t.equal(await attempt(secure.port, trusting, "db.example"), "R", "by its name");
  t.match(await attempt(secure.port, trusting, "other.example"), /altnames/);
  t.match(await attempt(secure.port, createSecureContext()), /self-signed/);
  await secure.close();
  const plain = await startTestGateway(server);
  t.match(await attempt(plain.port, trusting), /doesn't speak TLS/);
  await plain.close();
});
