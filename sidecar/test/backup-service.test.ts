/** What a node's backups say when time has passed or tests of the repository fail: alarms, events, metrics. */
import { chmod, mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { createLogger, makePostgresTempDirectory, poll, postgresUser } from "@quorate/common";
import { Registry } from "prom-client";
import { type Test, test } from "tap";
import { followerStatus, leaderStatus } from "../../orchestrator/test/statuses.ts";
import { registerBackupMetrics } from "../src/backup/backup-metrics.ts";
import { BackupService } from "../src/backup/backup-service.ts";
import { sidecarConfigSchema } from "../src/config.ts";
import { nodePaths } from "../src/paths.ts";
import { testBackupConfig } from "./backup-config.ts";

const dayMs = 86_400_000;
const owner = postgresUser();
const waitMs = 30_000;

type Told = { readonly row: string; readonly ok: boolean; readonly code?: string; readonly outcome: string };

/** pgBackRest's answers: a repository with one full backup, and files that can't be read. */
function info(startedAtMs: number): string {
  const at = Math.floor(startedAtMs / 1000);
  const ok = { code: 0, message: "ok" };
  const backup = {
    label: "20261115-010005F",
    type: "full",
    error: false,
    archive: { start: "000000020000000000000005", stop: "000000020000000000000005" },
    lsn: { start: "0/5000028", stop: "0/5000120" },
    timestamp: { start: at, stop: at + 5 },
    database: { id: 1 },
    info: { size: 1000, repository: { delta: 100 } },
  };
  const stanza = {
    name: "main",
    status: { ...ok, lock: { backup: { held: false } } },
    repo: [{ status: ok }],
    archive: [{ id: "18-1", database: { id: 1 } }],
    db: [{ id: 1, "system-id": 7000 }],
    backup: [backup],
  };
  return JSON.stringify([stanza]);
}

type Peer = () => Partial<ReturnType<BackupService["report"]>>;

async function service(
  t: Test,
  startedAtMs: number,
  clock: () => number,
  schedule: object,
  { repository = info(startedAtMs), peer = () => ({}) }: { repository?: string; peer?: Peer } = {},
) {
  const root = await makePostgresTempDirectory("quorate-service-");
  t.teardown(() => rm(root, { recursive: true, force: true }));
  await chmod(root, 0o755);
  const at = (name: string): string => path.join(root, name);
  await writeFile(at("info.json"), repository);
  const script = [
    "#!/bin/sh",
    'case " $* " in',
    `  *" info "*) cat ${at("info.json")} ;;`,
    '  *" verify "*) echo "status: error"; echo "  backup: 20261115-010005F, status: invalid, checksum invalid: 1" ;;',
    "  *) echo 'P00  ERROR: [055]: unable to open missing file for read' >&2; exit 55 ;;",
    "esac",
    "",
  ];
  await writeFile(at("pgbackrest"), script.join("\n"));
  await chmod(at("pgbackrest"), 0o755);
  await writeFile(at("key"), "a key\n");
  await mkdir(at("backup-repository"));
  const backup = testBackupConfig({
    pgbackrest: at("pgbackrest"),
    repository: { type: "posix", path: at("backup-repository") },
    cipherKeyFile: at("key"),
    stanza: "main",
    ...schedule,
  });
  const config = sidecarConfigSchema.parse({
    cluster: "main",
    node: { id: "n2" },
    dir: root,
    ports: { postgres: 5502, grpc: 5512, http: 5522 },
    postgres: { binDir: "/nowhere" },
    replication: { passwordFile: at("key") },
    app: { passwordFile: at("key") },
    backup,
  });
  const told: Told[] = [];
  const leader = leaderStatus("n1");
  const made = new BackupService({
    config: { ...config, backup },
    paths: nodePaths(root),
    owner,
    logger: createLogger({ name: "test", level: "silent" }),
    clock,
    peers: {
      ask: async () => [{ ...leader, backup: JSON.stringify({ ...made.report(), ...peer() }) }],
      tell: async () => undefined,
      close: () => undefined,
    },
  });
  made.prepare();
  const registry = new Registry();
  registerBackupMetrics(registry, () => made.report());
  made.start({
    status: () => ({ ...followerStatus("n2", "n1"), backup: JSON.stringify(made.report()) }),
    changed: () => undefined,
    record: async (event) => void told.push(JSON.parse(event) as Told),
  });
  t.teardown(() => made.end());
  const alarm = (code: string) =>
    poll(() => made.report().alarms.find((each) => each.code === code), { what: code, timeoutMs: waitMs });
  // From what was told, not from what is so now: the next alarm may follow at once.
  const over = (code: string) =>
    poll(() => told.find((each) => each.row === "backup_alarm_over" && each.code === code), {
      what: `the end of ${code}`,
      timeoutMs: waitMs,
    });
  return { alarm, over, told, metrics: () => registry.metrics() };
}

test("a backup that is too old", async (t) => {
  const startedAtMs = Date.parse("2026-11-15T01:00:00Z");
  const clock = () => startedAtMs + 3 * dayMs;
  const { alarm, told, metrics } = await service(t, startedAtMs, clock, { takeoverSeconds: 86_400 });
  t.match(await alarm("backup_too_old"), {
    message: "the newest backup is of 2026-11-15T01:00:00.000Z",
    todo: /schedule in sidecar\.json/,
  });
  t.match(told, [{ row: "backup_alarm", code: "backup_too_old", ok: false }], "an event");
  t.match(await metrics(), /^quorate_backup_alarm\{code="backup_too_old"\} 1$/m, "a metric");
});

test("a verification and a restore test that fail", async (t) => {
  const startedAtMs = Date.parse("2026-11-15T01:00:00Z");
  let nowMs = startedAtMs + 1000;
  const { alarm, told, metrics } = await service(t, startedAtMs, () => nowMs, {
    schedule: { full: "0 1 1 * *", diff: null, incr: null },
    restoreTest: "0 3 * * *",
    verify: "0 4 * * *",
    takeoverSeconds: 1,
  });
  nowMs = startedAtMs + dayMs / 2;
  t.match(await alarm("restore_test_failed"), { message: /can't be reached/ });
  nowMs += dayMs / 24;
  t.match(await alarm("verify_failed"), { message: /checksum invalid: 1/, todo: /new full backup/ });
  const rows = (row: string) => told.filter((event) => event.row === row);
  t.match(rows("restore_test"), [{ ok: false, code: "repository_unreachable" }]);
  t.match(rows("verify"), [{ ok: false, code: "verify_failed" }]);
  const page = await metrics();
  for (const line of [/^quorate_restore_test_ok 0$/m, /^quorate_verify_ok 0$/m]) t.match(page, line);
  t.match(page, /^quorate_backup_alarm\{code="verify_failed"\} 1$/m);
});

test("a repository that is empty here only", async (t) => {
  const startedAtMs = Date.parse("2026-11-15T01:00:00Z");
  const empty = JSON.stringify([]);
  const picture = { seenAt: new Date(startedAtMs).toISOString(), oldest: null, newest: null };
  let count = 1;
  const peer: Peer = () => ({ repository: { ...picture, count } });
  const { alarm, over, told } = await service(
    t,
    startedAtMs,
    () => startedAtMs + 1000,
    {},
    { repository: empty, peer },
  );
  t.match(await alarm("repository_unreachable"), {
    message: /empty here, but n1 sees backups in it/,
    todo: /^mount what is mounted there/,
  });
  t.notOk(told.some(({ row }) => row === "backup_alarm_over"));
  count = 0;
  t.ok(await over("repository_unreachable"), "nobody sees any: it is the cluster's, and may be begun");
});
