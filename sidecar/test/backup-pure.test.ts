/** The pure parts of backups: when, who, from what, and what a failure means. */
import fc from "fast-check";
import { test } from "tap";
import { type ControlData, parseControlData, planCatchUp } from "../src/backup/archive-catch-up.ts";
import { reasonIn, targetSettings } from "../src/backup/archive-replay.ts";
import { missingSegments } from "../src/backup/archive-watch.ts";
import { explainFailure } from "../src/backup/backup-failures.ts";
import { dueBackup, isMadeGood, isTaskDue, isTooOld } from "../src/backup/backup-schedule.ts";
import { backupTurn, type SeenNode, turnOrder } from "../src/backup/backup-turn.ts";
import { judgeVerify } from "../src/backup/backup-work.ts";
import {
  crc32c,
  newSystemIdentifier,
  systemIdentifierOf,
  withSystemIdentifier,
} from "../src/backup/control-file.ts";
import { type Backup, parseInfo, parseListing } from "../src/backup/repository-info.ts";
import { parsePercent } from "../src/backup/restore-data.ts";
import { parseTime, planRestore } from "../src/backup/restore-plan.ts";
import {
  checkRange,
  newestTimeline,
  parseHistory,
  segmentInHistory,
  segmentName,
  segmentNumber,
} from "../src/backup/wal-archive.ts";
import { testBackupConfig as config } from "./backup-config.ts";

const mb16 = 16 * 1024 ** 2;
const at = (text: string): number => Date.parse(`${text}Z`);

function backup(change: Partial<Backup> = {}): Backup {
  const startedAtMs = change.startedAtMs ?? at("2026-11-15T01:00:05");
  return {
    label: "20261115-010005F",
    type: "full",
    startedAtMs,
    stoppedAtMs: startedAtMs + 60_000,
    walStart: "000000020000000000000005",
    walStop: "000000020000000000000005",
    lsnStart: "0/5000028",
    lsnStop: "0/5000120",
    databaseBytes: 1000,
    repositoryBytes: 100,
    damaged: false,
    systemIdentifier: "1",
    ...change,
  };
}

const { schedule } = config();

test("which backup is due", async (t) => {
  const due = (backups: Backup[], now: string) => dueBackup({ schedule, backups, nowMs: at(now), gap: null });
  t.match(due([], "2026-11-16T00:00:00"), { type: "full", reason: /no backup yet/ });
  t.match(
    due([backup({ damaged: true })], "2026-11-16T00:00:00"),
    { type: "full" },
    "a damaged one doesn't count",
  );
  t.equal(due([backup()], "2026-11-16T00:59:59"), null, "nothing before its time");
  t.match(due([backup()], "2026-11-16T01:00:00"), { type: "diff", sinceMs: at("2026-11-16T01:00:00") });
  t.match(
    due([backup()], "2026-11-19T12:00:00"),
    { type: "diff" },
    "runs that nobody made are made up for once",
  );
  const diff = backup({ type: "diff", startedAtMs: at("2026-11-21T01:00:01") });
  t.equal(due([backup(), diff], "2026-11-21T23:00:00"), null);
  t.match(due([backup(), diff], "2026-11-22T01:00:00"), { type: "full" }, "the most complete one wins");
  t.equal(isTooOld(schedule, [backup()], at("2026-11-16T02:00:00")), false);
  t.equal(isTooOld(schedule, [backup()], at("2026-11-17T02:00:00")), true, "two runs were missed");
  t.equal(isTooOld(schedule, [], at("2026-11-17T02:00:00")), false);
  t.test("a failed attempt is made good by one that began no earlier", async (t) => {
    const run = { at: "2026-11-16T01:05:00.000Z", what: "diff backup", message: "", problem: null };
    const failed = { ...run, ok: false, began: "2026-11-16T01:00:00.700Z" };
    const made = (startedAt: string) => ({ startedAtMs: at(startedAt) });
    t.equal(isMadeGood(failed, made("2026-11-16T01:02:00")), true, "also when it ended before the failure");
    t.equal(isMadeGood(failed, made("2026-11-16T01:00:00")), true, "in the same second");
    t.equal(isMadeGood(failed, made("2026-11-16T00:59:59")), false);
    t.equal(
      isMadeGood({ ...failed, began: undefined }, made("2026-11-16T01:02:00")),
      false,
      "of older versions",
    );
    t.equal(isMadeGood({ ...failed, ok: true }, made("2026-11-16T01:02:00")), false, "nothing failed");
    t.equal(isMadeGood(null, made("2026-11-16T01:02:00")), false);
  });
  t.equal(isTaskDue("0 4 * * *", null, at("2026-11-15T05:00:00"), at("2026-11-16T03:59:00")), false);
  t.equal(isTaskDue("0 4 * * *", null, at("2026-11-15T05:00:00"), at("2026-11-16T04:00:00")), true);
  t.equal(isTaskDue(null, null, 0, at("2026-11-16T04:00:00")), false);
});

const due = { type: "diff" as const, sinceMs: at("2026-11-16T01:00:00"), reason: "scheduled" };
const node = (id: string, role: SeenNode["role"], change: Partial<SeenNode> = {}): SeenNode => ({
  id,
  role,
  healthy: true,
  able: true,
  busy: false,
  failedAtMs: null,
  ...change,
});

test("whose turn it is", async (t) => {
  const cluster = [
    node("n1", "leader"),
    node("n2", "follower"),
    node("n3", "observer"),
    node("n4", "follower"),
  ];
  const order = turnOrder(cluster, due);
  t.equal(order[0], "n3", "an observer first");
  t.equal(order.at(-1), "n1", "the leader last");
  const turn = (self: string, afterMs: number, nodes = cluster) =>
    backupTurn({
      self,
      nodes,
      due,
      dueSeenAtMs: due.sinceMs,
      nowMs: due.sinceMs + afterMs,
      takeoverMs: 300_000,
    });
  t.same(turn("n3", 0), { kind: "run", leader: "n1" });
  for (const other of ["n1", "n2", "n4"]) t.match(turn(other, 0), { kind: "wait", why: /turn of n3/ });
  t.equal(turn(order[1] ?? "", 299_999).kind, "wait");
  t.equal(turn(order[1] ?? "", 300_000).kind, "run", "the next one takes over");
  const busy = cluster.map((each) => (each.id === "n3" ? { ...each, busy: true } : each));
  t.match(turn("n1", 10_000_000, busy), { kind: "wait", why: /n3 makes a backup/ });
  const down = cluster.map((each) => (each.id === "n3" ? { ...each, healthy: false } : each));
  t.equal(
    turn(turnOrder(down, due)[0] ?? "", 0, down).kind,
    "run",
    "a node that is down is passed over at once",
  );
  t.equal(turn("n3", 10_000_000, down).kind, "wait");
  const only = cluster.map((each) => ({ ...each, able: each.id === "n1" }));
  t.match(turn("n1", 0, only), { kind: "run", leader: "n1" }, "who has the repository, also if it leads");
  t.match(turn("n3", 10_000_000, only), { kind: "wait", why: /repository/ });
  const failed = cluster.map((each) => (each.id === "n3" ? { ...each, failedAtMs: due.sinceMs + 5 } : each));
  t.equal(turnOrder(failed, due).at(-1), "n3", "who has failed goes to the end");
  t.match(turn("n2", 0, cluster.slice(1)), { kind: "wait", why: "no leader" });
  const nodesOnDay = (day: number) =>
    turnOrder(cluster.slice(0, 2).concat(cluster.slice(3)), { ...due, sinceMs: day * 86_400_000 })[0];
  t.not(new Set([0, 1, 2].map(nodesOnDay)).size, 1, "the work goes round");
});

test("never two nodes at once that see the same, and always one in the end", async (t) => {
  const nodes = fc.uniqueArray(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 7 }).chain((ids) =>
    fc.tuple(
      ...ids.map((id, i) =>
        fc.record({
          id: fc.constant(`n${id}`),
          role:
            i === 0
              ? fc.constant("leader" as const)
              : fc.constantFrom("follower" as const, "observer" as const),
          healthy: i === 0 ? fc.constant(true) : fc.boolean(),
          able: fc.constant(true),
          busy: fc.constant(false),
          failedAtMs: fc.constantFrom(null, due.sinceMs + 1000),
        }),
      ),
    ),
  );
  const takeoverMs = 300_000;
  fc.assert(
    fc.property(nodes, (all) => {
      // Time passes in steps; who begins is busy for good.
      const began: string[] = [];
      for (let nowMs = due.sinceMs + 2000; nowMs < due.sinceMs + 40 * takeoverMs; nowMs += takeoverMs / 2) {
        const seen = all.map((each) => ({ ...each, busy: began.includes(each.id) }));
        for (const { id } of all) {
          const turn = backupTurn({
            self: id,
            nodes: seen,
            due,
            dueSeenAtMs: due.sinceMs,
            nowMs,
            takeoverMs,
          });
          if (turn.kind === "run") began.push(id);
        }
        if (began.length > 0) break;
      }
      return began.length === 1;
    }),
  );
  t.pass("for all clusters that fast-check made");
});

test("the archive's history over sparse terms", async (t) => {
  const history = parseHistory(33, "1\t0/1C51D50\tbegin of a term\n\n17\t0/78F3A68\tbegin of a term\n");
  t.same(history, [
    { id: 1, endLsn: 0x1c51d50n },
    { id: 17, endLsn: 0x78f3a68n },
    { id: 33, endLsn: null },
  ]);
  t.equal(segmentInHistory(history, 0n, mb16), "000000010000000000000000");
  t.equal(
    segmentInHistory(history, 1n, mb16),
    "000000110000000000000001",
    "where it forks: of the newer timeline",
  );
  t.equal(segmentInHistory(history, 7n, mb16), "000000210000000000000007");
  const names = [...Array(9).keys()].map((i) => segmentInHistory(history, BigInt(i + 1), mb16));
  const listing = (segments: string[], histories: string[] = []) => ({
    segments: segments.map((name) => ({ name, archivedAtMs: at("2026-11-15T02:00:00") })),
    histories,
  });
  t.equal(
    newestTimeline(listing(names, ["00000040.history"])),
    33,
    "a history without a segment names no timeline to follow",
  );
  t.equal(newestTimeline(listing([])), undefined);
  const first = names[0] ?? "";
  t.same(checkRange(listing(names), history, first, mb16), { missing: [], lastWhole: names.at(-1) });
  const dead = segmentName(17, 7n, mb16);
  t.same(
    checkRange(listing([...names, dead]), history, first, mb16).missing,
    [],
    "a dead tail's segment is ignored",
  );
  t.same(checkRange(listing(names.filter((_, i) => i !== 4)), history, first, mb16), {
    missing: [names[4]],
    lastWhole: names[3],
  });
  t.same(
    missingSegments(listing(names.slice(0, 7)), history, first, 10n * BigInt(mb16) + 5n),
    names.slice(7),
    "complete and committed, but not there",
  );
  t.same(missingSegments(listing(names), history, first, 10n * BigInt(mb16) + 5n), []);
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 0xffffffff }),
      fc.bigInt(0n, 1n << 33n),
      fc.constantFrom(mb16, 1 << 20, 1 << 30),
      (timeline, number, bytes) => segmentNumber(segmentName(timeline, number, bytes), bytes) === number,
    ),
  );
});

test("which backup a restore uses", async (t) => {
  const history = parseHistory(5, "2\t0/6C944C0\tx\n");
  const numbers = [5n, 6n, 7n, 8n, 9n];
  const names = numbers.map((number) => segmentInHistory(history, number, mb16));
  const times = new Map(names.map((name, i) => [name, at(`2026-11-15T01:0${i + 1}:30`)]));
  const plan = (
    target: Parameters<typeof planRestore>[0]["target"],
    change: { segments?: string[]; backups?: Backup[]; label?: string } = {},
  ) =>
    planRestore({
      backups: change.backups ?? [
        backup(),
        backup({
          label: "second",
          type: "incr",
          startedAtMs: at("2026-11-15T01:03:00"),
          walStart: names[2] ?? "",
          walStop: names[2] ?? "",
          lsnStart: "0/7000028",
          lsnStop: "0/7000120",
        }),
      ],
      listing: {
        segments: (change.segments ?? names).map((name) => ({ name, archivedAtMs: times.get(name) ?? 0 })),
        histories: [],
      },
      history,
      target,
      segmentBytes: mb16,
      ...(change.label === undefined ? {} : { label: change.label }),
    });
  t.match(plan({ kind: "latest" }), {
    backup: { label: "second" },
    timeline: 5,
    firstSegment: names[2],
    lastSegment: names[4],
    segments: 3,
  });
  t.match(
    plan({ kind: "time", time: "2026-11-15 01:02:00" }),
    { backup: { label: "20261115-010005F" } },
    "the newest that had ended by then",
  );
  t.match(plan({ kind: "lsn", lsn: "0/6000100" }), {
    backup: { label: "20261115-010005F" },
    lastSegment: names[1],
    segments: 2,
  });
  t.match(plan({ kind: "latest" }, { label: "20261115-010005F" }), { segments: 5 });
  const refusal = (run: () => unknown, code: string, message: RegExp) => t.throws(run, { code, message });
  refusal(
    () => plan({ kind: "time", time: "2026-11-14 00:00" }),
    "nothing_to_restore",
    /oldest backup ends at/,
  );
  refusal(
    () => plan({ kind: "time", time: "2026-11-16 00:00" }),
    "nothing_to_restore",
    /reaches until 2026-11-15 01:05:30/,
  );
  refusal(() => plan({ kind: "lsn", lsn: "0/F000000" }), "nothing_to_restore", /archive ends with/);
  refusal(() => plan({ kind: "latest" }, { label: "what" }), "nothing_to_restore", /no backup what/);
  refusal(() => plan({ kind: "latest" }, { backups: [] }), "nothing_to_restore", /holds no backup/);
  const gap = names.filter((_, i) => i !== 3);
  refusal(() => plan({ kind: "latest" }, { segments: gap }), "archive_gap", new RegExp(`lacks ${names[3]}`));
  refusal(
    () => plan({ kind: "time", time: "2026-11-15 01:05:00" }, { segments: gap }),
    "archive_gap",
    /lacks/,
  );
  t.match(
    plan({ kind: "time", time: "2026-11-15 01:03:20" }, { segments: gap }),
    { lastSegment: names[1] === undefined ? "" : names[2] },
    "before the gap it works",
  );
  const onDead = backup({
    label: "dead",
    walStart: segmentName(2, 7n, mb16),
    walStop: segmentName(2, 7n, mb16),
    lsnStop: "0/7000120",
  });
  t.match(
    plan({ kind: "latest" }, { backups: [backup(), onDead] }),
    { backup: { label: "20261115-010005F" } },
    "a backup beyond the fork of its timeline is none",
  );
  t.equal(parseTime("2026-11-21 13:05:31"), at("2026-11-21T13:05:31"));
  t.equal(parseTime("2026-11-21T13:05+02"), at("2026-11-21T11:05:00"));
  t.equal(parseTime("2026-11-21 13:05:31.5 -0330"), at("2026-11-21T16:35:31.5"));
  t.equal(parseTime("yesterday"), undefined);
});

test("the target of a replay is the last that is said about targets", async (t) => {
  for (const target of [
    { kind: "time", time: "2026-11-15 01:00:00+00" },
    { kind: "lsn", lsn: "0/5000000" },
    { kind: "name", name: "x" },
  ] as const) {
    const settings = Object.entries(targetSettings(target, 7));
    t.equal(settings.at(-1)?.[0], `recovery_target_${target.kind}`);
    t.ok(settings.at(-1)?.[1]);
    t.equal(
      settings.filter(([name, value]) => /target(_xid|_time|_lsn|_name)?$/.test(name) && value === "").length,
      4,
    );
  }
  t.match(targetSettings({ kind: "latest" }, 7), { recovery_target_timeline: "7", recovery_target: "" });
});

test("what pgBackRest's failures mean", async (t) => {
  const code = (exit: number, output: string, free: number | null = null) =>
    explainFailure(exit, output, free).code;
  t.equal(
    code(
      103,
      "ERROR: [103]: unable to find a valid repository:\n repo1: [FileMissingError] unable to load info file",
    ),
    "repository_unreachable",
  );
  t.equal(code(49, "unable to connect to 'backup:8432': [111] Connection refused"), "repository_unreachable");
  t.equal(
    code(29, "FormatError: key/value found outside of section at line 1: \ufffdn"),
    "wrong_repository_key",
  );
  t.equal(
    code(104, "repo1: [FileWriteError] unable to write 'x': [28] No space left on device"),
    "repository_full",
  );
  t.equal(
    code(104, "repo1: [FileWriteError] unable to write 'x': [2] No such file or directory", 4096),
    "repository_full",
    "as pgBackRest 2.60 words it",
  );
  t.equal(code(104, "unable to write 'x': [2] No such file or directory", 10 ** 12), "backup_failed");
  t.equal(code(28, "backup and archive info files exist but do not match the database"), "version_mismatch");
  t.equal(
    code(
      38,
      "unexpected control version = 1900 and catalog version = 1\nHINT: is this version of PostgreSQL supported?",
    ),
    "version_mismatch",
  );
  t.equal(
    code(82, "WAL segment 000000010000000000000003 was not archived before the 60000ms timeout"),
    "archive_gap",
  );
  t.equal(
    code(50, "unable to acquire lock on file '/x/main-backup-1.lock': Resource temporarily unavailable"),
    "backup_running",
  );
  t.equal(code(75, "no backup set found to restore"), "nothing_to_restore");
  t.match(explainFailure(1, "P00  ERROR: [001]: what is this"), {
    code: "backup_failed",
    message: /what is this/,
    todo: /log/,
  });
  t.notMatch(
    explainFailure(
      58,
      "2026-11-21 14:53:00.088 P00   INFO: execute backup\n2026-11-21 14:53:00.542 P00  ERROR: [058]: WAL timeline 5 does not match pg_control timeline 2",
    ).message,
    /execute backup/,
    "only what went wrong",
  );
  const wrongKey = explainFailure(
    29,
    "P00  ERROR: [029]: unable to load info file 'x':\n FormatError: key/value found outside of section at line 1: \u0001\u0002\ufffdsecret\nHINT: y",
  );
  t.notMatch(wrongKey.message, /secret|HINT/, "no bytes of the file, no hints of theirs");
});

test("what pgBackRest says about its repository", async (t) => {
  const info = parseInfo(
    JSON.stringify([
      {
        name: "main",
        status: { code: 0, message: "ok", lock: { backup: { held: true } } },
        repo: [{ status: { code: 0, message: "ok" } }],
        archive: [{ id: "18-1", database: { id: 1 } }],
        db: [{ id: 1, "system-id": "@" }],
        backup: [
          {
            label: "L",
            type: "full",
            error: false,
            archive: { start: "000000020000000000000005", stop: "000000020000000000000005" },
            lsn: { start: "0/5000028", stop: "0/5000120" },
            timestamp: { start: 10, stop: 20 },
            database: { id: 1 },
            info: { size: 9, repository: { delta: 3 } },
          },
        ],
      },
    ]).replace('"@"', "7710610011082142295"),
    "main",
  );
  t.match(info, {
    kind: "ok",
    locked: true,
    archiveId: "18-1",
    backups: [{ label: "L", systemIdentifier: "7710610011082142295", stoppedAtMs: 20_000 }],
  });
  t.same(parseInfo("[]", "main"), { kind: "absent" });
  t.same(parseInfo('[{"name":"main","status":{"code":1,"message":"missing stanza path"}}]', "main"), {
    kind: "absent",
  });
  t.match(
    parseInfo(
      '[{"name":"main","status":{"code":99,"message":"other"},"repo":[{"status":{"code":99,"message":"[FormatError] x"}}]}]',
      "main",
    ),
    { kind: "unusable", message: /FormatError/ },
  );
  const sum = "a".repeat(40);
  t.same(
    parseListing(
      JSON.stringify({
        ".": { type: "path" },
        "0000000200000000": { type: "path" },
        [`0000000200000000/000000020000000000000001-${sum}.zst`]: { type: "file", size: 1, time: 5 },
        "00000002.history": { type: "file", size: 1, time: 1 },
        "0000000200000000/000000020000000000000002.00000028.backup": { type: "file" },
      }),
    ),
    {
      segments: [{ name: "000000020000000000000001", archivedAtMs: 5000 }],
      histories: ["00000002.history"],
    },
  );
  t.equal(
    parsePercent(
      "P01 DETAIL: restore file /x/1 (16KB, 12.34%)\nP01 DETAIL: restore file /x/2 (bundle 1/20, 0B, 99.00%)",
    ),
    99,
  );
  t.equal(parsePercent("P00   INFO: restore command begin"), null);
  t.match(
    judgeVerify(
      "stanza: main\nstatus: ok\n  archiveId: 18-1, total WAL checked: 18, total valid WAL: 18\n    missing: 0, checksum invalid: 0, size invalid: 0, other: 0\n  backup: B, status: valid, total files checked: 12, total valid files: 12\n    missing: 0, checksum invalid: 0, size invalid: 0, other: 0\n",
    ),
    /18 WAL segments, 12 files/,
  );
  t.throws(
    () =>
      judgeVerify(
        "status: error\n  backup: B, status: invalid, total files checked: 12, total valid files: 11\n    missing: 0, checksum invalid: 1, size invalid: 0, other: 0\n",
      ),
    { code: "verify_failed", message: /checksum invalid: 1/ },
  );
});

test("another system identifier in pg_control", async (t) => {
  t.equal(crc32c(Buffer.from("123456789")), 0xe3069283, "the known check value of CRC-32C");
  const control = Buffer.alloc(8192);
  for (let i = 0; i < 296; i++) control[i] = (i * 7 + 13) & 0xff;
  control.writeUInt32LE(crc32c(control.subarray(0, 296)), 296);
  const changed = withSystemIdentifier(control, 77n);
  t.equal(systemIdentifierOf(changed), 77n);
  t.equal(changed.readUInt32LE(296), crc32c(changed.subarray(0, 296)));
  t.same(changed.subarray(300), control.subarray(300));
  control[20] = 0xff;
  t.throws(() => withSystemIdentifier(control, 77n), /damaged/);
  t.not(newSystemIdentifier(1_795_000_000_123, 1), newSystemIdentifier(1_795_000_000_123, 2));
});

test("why a replay ended, not that it was asked too early", async (t) => {
  const early = [
    "2026 [7] FATAL:  the database system is starting up",
    "2026 [8] FATAL:  the database system is not yet accepting connections",
    "2026 [8] DETAIL:  Consistent recovery state has not been yet reached.",
  ];
  const end = "2026 [5] FATAL:  recovery ended before configured recovery target was reached";
  const log = [...early, ...early, end, "2026 [1] LOG:  shutting down", ""].join("\n");
  t.equal(reasonIn(log), "recovery ended before configured recovery target was reached");
});

const controlReport = `pg_control version number:            1800
Database system identifier:           7710869051307690078
Database cluster state:               in archive recovery
Latest checkpoint location:           0/5000080
Latest checkpoint's REDO location:    0/5000028
Latest checkpoint's REDO WAL file:    000000020000000000000005
Minimum recovery ending location:     0/6000100
Min recovery ending loc's timeline:   2
`;

test("what pg_controldata says of outdated data", async (t) => {
  t.same(parseControlData(controlReport), {
    systemIdentifier: "7710869051307690078",
    state: "in archive recovery",
    redoLsn: 0x5000028n,
    minRecovery: { lsn: 0x6000100n, timeline: 2 },
  });
  t.match(parseControlData(controlReport.replace("0/6000100", "0/0")), { minRecovery: null });
  t.equal(parseControlData("pg_controldata: error: could not open file"), undefined);
});

test("whether the archive can bring outdated data up to date", async (t) => {
  const control = parseControlData(controlReport) as ControlData;
  // Timeline 2 ended in segment 8, timeline 4 goes on.
  const history = parseHistory(4, "2\t0/8000500\tbegin of a term\n");
  const segment = (timeline: number, number: number) => segmentName(timeline, BigInt(number), mb16);
  const whole = [segment(2, 5), segment(2, 6), segment(2, 7), segment(4, 8), segment(4, 9)];
  const plan = (
    names: readonly string[],
    { endLsn = 0x6800000n, ...change }: Partial<ControlData> & { endLsn?: bigint } = {},
  ) =>
    planCatchUp({
      control: { ...control, ...change },
      endLsn,
      listing: { segments: names.map((name) => ({ name, archivedAtMs: 0 })), histories: [] },
      history,
      segmentBytes: mb16,
    });
  t.same(plan(whole), {
    kind: "possible",
    timeline: 4,
    firstSegment: segment(2, 5),
    lastSegment: segment(4, 9),
    segments: 5,
  });
  t.match(plan(whole.slice(1)), { kind: "impossible", reason: /lacks 000000020000000000000005/ });
  t.match(plan(whole.filter((name) => name !== segment(4, 8))), { reason: /lacks 000000040000000000000008/ });
  t.match(plan([]), { kind: "impossible" });
  // Its own log, whose end may be nobody's, must lie within what is archived.
  t.match(plan(whole, { endLsn: 0x9000100n }), { reason: /no later than its own log/ });
  t.match(plan(whole, { endLsn: 0x8fffff8n }), { kind: "possible" });
  // A second attempt after one that reached the archive's end would reach no more.
  t.match(plan(whole, { minRecovery: { lsn: 0x9ffff00n, timeline: 4 } }), { reason: /no later/ });
  // Data of a history that lost.
  t.match(plan(whole, { minRecovery: { lsn: 0x6000100n, timeline: 3 } }), { reason: /another history/ });
  t.match(plan(whole, { minRecovery: { lsn: 0x8000501n, timeline: 2 } }), { reason: /another history/ });
  // A primary's data begins with its own log, dead tail and all.
  t.match(plan(whole, { state: "in production" }), { reason: /in production/ });
  t.match(plan(whole, { minRecovery: null }), { kind: "impossible" });
});
