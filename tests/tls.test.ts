// Mutual TLS: with certificates nobody else is answered, and renewed ones are taken without a restart.
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { connect } from "node:tls";
import { poll, run } from "@quorate/common";
import { clientCredentials, connectSidecar } from "@quorate/proto";
import t from "tap";
import { quorate, TestCluster } from "./lib/cluster.ts";

t.test("certs init, refusal of everybody else, certs renew", async (test) => {
  const cluster = await TestCluster.start(test);
  const verb = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await quorate(...args, "--dir", cluster.dir);
    test.equal(code, 0, `quorate ${args.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  };
  const early = await quorate("certs", "init", "--dir", cluster.dir);
  test.not(early.code, 0, "not while it runs");
  await verb("down");
  await verb("certs", "init", "--days", "2");
  await cluster.up();
  cluster.reopen();
  await cluster.waitUntilWhole();
  await verb("switchover");

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

  const shown = async (): Promise<string> => {
    const [ca, cert, keyPem] = ["ca.pem", "cert.pem", "key.pem"].map((name) =>
      readFileSync(path.join(own, name)),
    );
    const { host, ports } = node;
    const socket = connect({ host, port: ports.grpc, ca, cert, key: keyPem, ALPNProtocols: ["h2"] });
    await once(socket, "secureConnect");
    const { fingerprint256 } = socket.getPeerCertificate();
    socket.destroy();
    return fingerprint256;
  };
  const before = await shown();
  const pid = cluster.sidecarPid("n1");
  await verb("certs", "renew");
  await poll(async () => (await shown()) !== before, { what: "the renewed certificate", timeoutMs: 30_000 });
  test.equal(cluster.sidecarPid("n1"), pid, "the same process shows another certificate");
  await verb("switchover");
});
