/** What is written for pgBackRest, and what is told about backups. */
import { test } from "tap";
import { Alarms } from "../src/backup/alarms.ts";
import { roomForRepair } from "../src/backup/archive-keeper.ts";
import { absoluteBackupConfig, type BackupConfig, remoteRepository } from "../src/backup/backup-config.ts";
import { alarmEvent, eventLine } from "../src/backup/backup-events.ts";
import { backupPicture, formatBackupPicture, formatBytes, readReport } from "../src/backup/backup-report.ts";
import { peerAddresses } from "../src/backup/peers.ts";
import { backupPaths, getScript, otherNodeOptions, pgbackrestConf } from "../src/backup/pgbackrest-conf.ts";
import { testBackupConfig as config, testReport } from "./backup-config.ts";

const mb16 = 16 * 1024 ** 2;
const at = (text: string): number => Date.parse(`${text}Z`);
const local = { dataDirectory: "/n/data", socketDirectory: "/n/run", port: 5501 };

function confOf(backupConfig: BackupConfig, host: string): string {
  return pgbackrestConf({
    config: backupConfig,
    stanza: "main",
    paths: backupPaths("/n", backupConfig, host),
    postgres: local,
    secrets: { cipherKey: "K", s3Key: "A", s3KeySecret: "S" },
    host,
  });
}

test("pgBackRest's configuration", async (t) => {
  const conf = (backupConfig: BackupConfig) => confOf(backupConfig, "10.0.0.1");
  const simple = conf(config());
  t.match(simple, /repo1-path=\/srv\/backup\/repository\n/);
  t.match(simple, /repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=K\n/);
  t.match(simple, /repo1-retention-full-type=count\nrepo1-retention-full=2\n/);
  t.match(simple, /archive-async=n\n/);
  t.match(simple, /archive-push-queue-max=4294967296\n/);
  t.match(simple, /\[main\]\npg1-path=\/n\/data\npg1-port=5501\n/);
  t.match(simple, /lock-path=\/srv\/backup\/lock\n/, "nodes that share a directory share the lock");
  const s3 = conf(
    config({
      retention: { days: 30 },
      repository: {
        type: "s3",
        bucket: "b",
        endpoint: "s3.example.com",
        region: "eu",
        uriStyle: "path",
        port: 9000,
        keyFile: "/k",
        keySecretFile: "/s",
        verifyTls: false,
      },
    }),
  );
  for (const line of [
    "repo1-type=s3",
    "repo1-s3-bucket=b",
    "repo1-s3-endpoint=s3.example.com",
    "repo1-s3-region=eu",
    "repo1-s3-uri-style=path",
    "repo1-s3-key=A",
    "repo1-s3-key-secret=S",
    "repo1-storage-port=9000",
    "repo1-storage-verify-tls=n",
    "repo1-path=/quorate",
    "archive-async=y",
    "repo1-retention-full-type=time",
    "repo1-retention-full=30",
    "lock-path=/n/backup/lock",
  ])
    t.ok(s3.split("\n").includes(line), line);
  const tls = {
    port: 8432,
    clients: ["quorate"],
    certFile: "/c/n.crt",
    keyFile: "/c/n.key",
    caFile: "/c/ca.crt",
  };
  const served = conf(config({ tls })).split("\n");
  for (const line of ["tls-server-auth=quorate=*", "tls-server-address=10.0.0.1", "tls-server-port=8432"])
    t.ok(served.includes(line), line);
  t.ok(served.includes("tls-server-key-file=/n/backup/tls/key.pem"), "copies that Postgres's owner can read");
  const paths = backupPaths("/n", config(), "10.0.0.1");
  const place = { host: "10.0.0.2", port: 8432, conf: "/m/backup/pgbackrest.conf" };
  const remote = otherNodeOptions(paths, { ...local, tls: place });
  for (const option of ["--pg2-host=10.0.0.2", "--pg2-host-type=tls", `--pg2-host-config=${place.conf}`])
    t.ok(remote.includes(option), option);
  t.ok(remote.includes("--backup-standby=y"));
  t.notMatch(otherNodeOptions(paths, local).join(" "), /host|cipher|key/);
  t.match(
    getScript(config(), "main", "/c", "/d", ["00000002.history"]),
    /00000002\.history\) ;;\n {2}\*\.history\) exit 1 ;;/,
  );
  t.throws(() => config({ schedule: { full: "whenever" } }), /cron/);
  t.throws(() => config({ schedule: { full: "* * * * * *" } }), /five fields/);
  t.throws(() => config({ retention: { full: 0 } }));
  const absolute = absoluteBackupConfig(
    config({ repository: { type: "posix", path: "../b" }, cipherKeyFile: "../k" }),
    (path) => `/abs/${path}`,
  );
  t.match(absolute, { repository: { path: "/abs/../b" }, cipherKeyFile: "/abs/../k" });
});

test("a repository on one node's disk", async (t) => {
  const tls = { port: 8433, clients: ["q"], certFile: "/c/n.crt", keyFile: "/c/n.key", caFile: "/c/ca.crt" };
  const shared = config({ tls, repository: { type: "posix", path: "/srv/backup", host: "10.0.0.1" } });
  t.throws(() => config({ repository: { type: "posix", path: "/srv/backup", host: "10.0.0.1" } }), /TLS/);
  t.equal(remoteRepository(shared, "10.0.0.1"), null);
  t.same(remoteRepository(shared, "10.0.0.2"), { host: "10.0.0.1", port: 8433 });
  const holder = confOf(shared, "10.0.0.1");
  t.match(holder, /repo1-path=\/srv\/backup\/repository\n/);
  t.match(holder, /repo1-cipher-pass=K\n/);
  t.notMatch(holder, /repo1-host/);
  const other = confOf(shared, "10.0.0.2");
  for (const line of [
    "repo1-host=10.0.0.1",
    "repo1-host-type=tls",
    "repo1-host-port=8433",
    "repo1-host-config=/srv/backup/served.conf",
    "repo1-host-cert-file=/n/backup/tls/cert.pem",
    "lock-path=/n/backup/lock",
  ])
    t.ok(other.split("\n").includes(line), line);
  t.notMatch(other, /cipher|repo1-path|repo1-bundle/, "only the node that has the repository has its key");
});

test("alarms: each source its own, told when they begin and end", async (t) => {
  const told: string[] = [];
  const alarms = new Alarms(({ kind, alarm }) => told.push(`${kind} ${alarm.code}`));
  const problem = (code: "repository_full" | "archive_lagging", message = "m") => ({
    code,
    message,
    todo: "t",
  });
  alarms.set("archiver", problem("repository_full"));
  alarms.set("archiver", problem("repository_full", "others words"));
  alarms.set("backup", problem("repository_full"));
  t.match(alarms.list(), [{ code: "repository_full", message: "others words" }], "one of each code");
  alarms.clear("archiver", "archiver", "age");
  t.equal(alarms.list().length, 1, "the backup's own is still there");
  alarms.set("backup", problem("archive_lagging"));
  t.same(told, [
    "raised repository_full",
    "raised repository_full",
    "cleared repository_full",
    "raised archive_lagging",
  ]);
  const event = alarmEvent(
    { kind: "raised", alarm: { ...problem("archive_lagging"), since: "2026-11-15T01:00:00Z" } },
    0,
  );
  const line = eventLine(event, { id: "n1-1", node: "n1", term: 3, atMs: 0 });
  t.match(JSON.parse(line), {
    id: "n1-1",
    by: "n1",
    kind: "backup",
    row: "backup_alarm",
    ok: false,
    term: 3,
  });
});

test("as many segments are marked again as may wait", async (t) => {
  t.equal(roomForRepair(4 * mb16, 0), 2);
  t.equal(roomForRepair(4 * mb16, 1), 1);
  t.equal(roomForRepair(4 * mb16, 9), 0);
});

test("what all nodes say together", async (t) => {
  const shown = {
    label: "L",
    type: "full" as const,
    stoppedAt: "2026-11-15T01:01:05.000Z",
    databaseBytes: 31_000_000,
    repositoryBytes: 6_000_000,
  };
  t.equal(backupPicture([{ node: "n1", report: null }]), null);
  const picture = backupPicture([
    {
      node: "n1",
      report: testReport({
        repository: { seenAt: "2026-11-15T01:00:00Z", count: 0, oldest: null, newest: null },
        archive: {
          lastArchived: "000000020000000000000006",
          lastArchivedAt: "2026-11-15T02:00:00.000Z",
          waitingSegments: 1,
          waitingBytes: mb16,
          oldestWaitingAt: null,
          gap: null,
        },
      }),
    },
    {
      node: "n2",
      report: testReport({
        repository: { seenAt: "2026-11-15T02:00:00Z", count: 1, oldest: shown, newest: shown },
        running: { what: "diff backup", since: "2026-11-15T02:00:00Z", percent: 40 },
        alarms: [{ code: "backup_failed", message: "m", todo: "t", since: "2026-11-15T02:00:00Z" }],
      }),
    },
  ]);
  t.match(picture, {
    count: 1,
    last: { label: "L" },
    restorable: { from: shown.stoppedAt, to: "2026-11-15T02:00:00.000Z" },
    running: { node: "n2" },
  });
  const lines = picture === null ? [] : formatBackupPicture(picture, at("2026-11-15T02:00:30"));
  t.match(lines.join("\n"), /backup: full L, 59 min ago, 29.6 MB .*n2: diff backup 40 %/);
  t.match(lines.join("\n"), /archive: 000000020000000000000006, 30 s ago, 1 segments \(16.0 MB\) wait/);
  t.match(lines.join("\n"), /ALARM backup_failed \(n2, since 2026-11-15 02:00:00\): m; t/);
  t.same(readReport(JSON.stringify(testReport())), testReport());
  t.equal(readReport("{"), null);
  t.equal(readReport('{"of":"another version"}'), null);
  t.equal(formatBytes(999), "999 B");
  t.same(peerAddresses('{"cohort":[{"id":"n1","properties":{"grpc":"h:1"}},{"id":"n2"}]}'), [
    { id: "n1", grpc: "h:1" },
  ]);
  t.same(peerAddresses("what"), []);
});
