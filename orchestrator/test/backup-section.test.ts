import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "tap";
import { backupSection, hasOwnKey, isUsual } from "../src/cluster/backup-section.ts";

test("--backup FILE: only what differs, and nothing that isn't understood", async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), "quorate-section-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const file = path.join(directory, "backup.json");
  const read = (content: object | string) => {
    writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
    return backupSection(file, "/usr/bin/pgbackrest");
  };
  const usual = backupSection(undefined, "/usr/bin/pgbackrest");
  t.ok(isUsual(usual) && hasOwnKey(usual));
  const daily = read({ schedule: { full: "0 1 * * *" } });
  t.match(daily, { ...usual, schedule: { full: "0 1 * * *" } });
  t.ok(isUsual(daily));
  const repository = {
    type: "s3",
    bucket: "b",
    endpoint: "s3.example.com",
    keyFile: "/srv/k",
    keySecretFile: "/srv/s",
  };
  const s3 = read({ repository, cipherKeyFile: null });
  t.match(s3, { repository, cipherKeyFile: null, pgbackrest: "/usr/bin/pgbackrest" });
  t.notOk(isUsual(s3) || hasOwnKey(s3));
  for (const [content, reason] of [
    ["{", /--backup .*backup\.json: .*JSON/],
    [{ schedule: { full: "whenever" } }, /schedule\.full: must be a cron expression/],
    [{ bucket: "b" }, /Unrecognized key/i],
    [{ repository: { ...repository, keyFile: "k" } }, /k is no absolute path/],
    [{ repository: { type: "posix", path: "/srv/b", host: "10.0.0.1" } }, /certs init/],
  ] as const)
    t.throws(() => read(content), { code: "bad_option", message: reason });
  t.throws(() => backupSection("/no/such/file", "/"), { code: "bad_option", message: /ENOENT/ });
});
