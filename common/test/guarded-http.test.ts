/** Who is answered over HTTP: by token, by certificate, and nobody else. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { guardedGet, type HttpRoute, startGuardedHttp } from "../src/guarded-http.ts";
import { run } from "../src/run.ts";
import { hasToken, SecretFile } from "../src/secret-file.ts";
import { poll } from "../src/waiting.ts";

const host = "127.0.0.1";
const routes: Readonly<Record<string, HttpRoute>> = {
  "/health": { open: true, answer: (known) => ({ type: "text/plain", body: known ? "known" : "ok" }) },
  "/status": { answer: () => ({ type: "text/plain", body: "everything" }) },
};

function directory(t: Test): string {
  const made = mkdtempSync(join(tmpdir(), "qg-"));
  t.teardown(() => rmSync(made, { recursive: true }));
  return made;
}

/** A certificate by its own authority. */
async function certificate(at: string, name: string): Promise<{ ca: string; cert: string; key: string }> {
  const files = { ca: join(at, `${name}.pem`), cert: join(at, `${name}.pem`), key: join(at, `${name}.key`) };
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", files.key];
  const subject = ["-subj", `/CN=${name}`, "-addext", `subjectAltName=IP:${host}`];
  await run("openssl", ["req", "-x509", ...key, "-out", files.cert, ...subject], { timeoutMs: 30_000 });
  return files;
}

t.test("the token", async (t) => {
  const file = join(directory(t), "token");
  writeFileSync(file, "first\n");
  const secret = new SecretFile(file);
  const server = await startGuardedHttp({ host, port: 0, routes, token: () => secret.value });
  t.teardown(() => server.close());
  const get = async (path: string, token?: string): Promise<string> => {
    const { code, body } = await guardedGet({ host, port: server.port, path, token, timeoutMs: 5_000 });
    return `${code} ${body.trim()}`;
  };
  t.equal(await get("/status", "first"), "200 everything");
  t.match(await get("/status"), /^401/);
  t.match(await get("/status", "second"), /^401/);
  t.match(await get("/nothing"), /^401/, "strangers don't learn what there is");
  t.match(await get("/nothing", "first"), /^404/);
  t.match(await get("/constructor", "first"), /^404/);
  t.equal(await get("/health"), "200 ok", "open, without details");
  t.equal(await get("/health", "first"), "200 known");
  const post = await fetch(`http://${host}:${server.port}/status`, {
    method: "POST",
    headers: { authorization: "Bearer first" },
  });
  t.equal(post.status, 405);
  writeFileSync(file, "a longer one\n");
  t.match(await get("/status", "first"), /^401/, "another token counts at once");
  writeFileSync(file, "\n");
  t.match(await get("/status", ""), /^500/, "an empty file lets nobody in");
  t.notOk(hasToken("Basic first", "first"));
  t.notOk(hasToken(undefined, ""));
});

t.test("certificates, renewed while it runs", async (t) => {
  const at = directory(t);
  const own = await certificate(at, "own");
  const stranger = await certificate(at, "stranger");
  const server = await startGuardedHttp({ host, port: 0, routes, tls: own, token: () => "secret" });
  t.teardown(() => server.close());
  const ask = { host, port: server.port, path: "/status", timeoutMs: 5_000 };
  t.equal((await guardedGet({ ...ask, tls: own })).code, 200);
  t.equal((await guardedGet({ ...ask, tls: { ...stranger, ca: own.ca } })).code, 401);
  t.equal((await guardedGet({ ...ask, tls: { ...stranger, ca: own.ca }, token: "secret" })).code, 200);
  await t.rejects(guardedGet({ ...ask, tls: stranger }), "a server of another authority isn't believed");
  await t.rejects(guardedGet(ask), "no plain HTTP");
  const before = { ...own };
  const fresh = await certificate(at, "fresh");
  for (const name of ["key", "cert"] as const)
    writeFileSync(before[name], await import("node:fs").then((fs) => fs.readFileSync(fresh[name])));
  await poll(async () => (await guardedGet({ ...ask, tls: fresh }).catch(() => undefined))?.code === 200, {
    what: "the renewed certificate to be used",
    timeoutMs: 20_000,
  });
  t.equal((await guardedGet({ ...ask, tls: fresh })).code, 200);
});

t.test("neither token nor certificates: everybody", async (t) => {
  const server = await startGuardedHttp({ host, port: 0, routes });
  t.teardown(() => server.close());
  t.equal((await guardedGet({ host, port: server.port, path: "/status", timeoutMs: 5_000 })).code, 200);
});
