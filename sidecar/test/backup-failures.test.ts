/** Each failure of a repository, made with the real pgBackRest where it can be made; a fake one where it can't. */
import { randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { codeOf, makePostgresTempDirectory, postgresUser, run, runAsPostgres } from "@quorate/common";
import { type Test, test } from "tap";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { ensurePgbackrest } from "../../scripts/pgbackrest.ts";
import { pushFailure, repairArchive } from "../src/backup/archive-watch.ts";
import { type BackupConfigInput, backupConfigSchema } from "../src/backup/backup-config.ts";
import { prepareBackup } from "../src/backup/backup-environment.ts";
import { Pgbackrest } from "../src/backup/pgbackrest.ts";
import { backupPaths } from "../src/backup/pgbackrest-conf.ts";

const owner = postgresUser();

async function repository(t: Test, data: string, change: Partial<BackupConfigInput> = {}, key = "a key") {
  const directory = await makePostgresTempDirectory("quorate-repo-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return { directory, ...(await open(directory, data, change, key)) };
}

async function open(directory: string, data: string, change: Partial<BackupConfigInput>, key: string) {
  await writeFile(path.join(directory, "key"), `${key}\n`);
  const config = backupConfigSchema.parse({
    pgbackrest: (await ensurePgbackrest()).command,
    repository: { type: "posix", path: path.join(directory, "backup") },
    cipherKeyFile: path.join(directory, "key"),
    ...change,
  });
  const paths = backupPaths(directory, config, "127.0.0.1");
  const postgres = { dataDirectory: data, socketDirectory: directory, port: 5432 };
  prepareBackup({ config: { host: "127.0.0.1", backup: config }, paths, stanza: "main", postgres, owner });
  return { paths, pgbackrest: new Pgbackrest({ config, stanza: "main", paths, host: "127.0.0.1", owner }) };
}

async function newData(t: Test): Promise<string> {
  const { bin } = await ensurePostgres({ flavour: "patched" });
  const directory = await makePostgresTempDirectory("quorate-data-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const data = path.join(directory, "data");
  await runAsPostgres(path.join(bin, "initdb"), ["-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]);
  return data;
}

const create = ["--no-online", "stanza-create"];

async function failure(work: Promise<unknown>): Promise<{ code: string | undefined; message: string }> {
  try {
    await work;
    return { code: undefined, message: "it worked" };
  } catch (error) {
    return { code: codeOf(error), message: (error as Error).message };
  }
}

test("wrong key, another cluster's repository, no repository", async (t) => {
  const data = await newData(t);
  const first = await repository(t, data);
  await first.pgbackrest.command("create", create);
  t.match(await first.pgbackrest.info(), { kind: "ok", backups: [] });
  const conf = await readFile(first.paths.conf, "utf8");
  t.match(conf, /repo1-cipher-pass=a key/, "the key is in the file that only Postgres's owner can read");

  const wrong = await open(first.directory, data, {}, "another key");
  t.match(await failure(wrong.pgbackrest.info()), { code: "wrong_repository_key", message: /cipherKeyFile/ });
  t.match(await failure(wrong.pgbackrest.command("create", create)), { code: "wrong_repository_key" });

  const stranger = await open(first.directory, await newData(t), {}, "a key");
  t.match(await failure(stranger.pgbackrest.command("create", create)), {
    code: "version_mismatch",
    message: /stanza of its own|of its own/,
  });

  const nowhere = await repository(t, data, {
    repository: { type: "posix", path: "/var/lib/quorate-nowhere/backup" },
  });
  t.match(await failure(nowhere.pgbackrest.command("create", create)), {
    code: "repository_unreachable",
    message: /backup\.repository/,
  });

  const wal = path.join(data, "pg_wal/000000010000000000000001");
  const unready = await repository(t, data);
  const push = (script: string) => runAsPostgres(script, [wal], { okCodes: [0, 1, 103, 104], cwd: data });
  t.equal((await push(unready.paths.pushScript)).code, 1, "before the repository is ready nothing is pushed");
  await writeFile(unready.paths.readyFile, "");
  t.equal((await push(unready.paths.pushScript)).code, 103);
  t.match(
    await readFile(unready.paths.errorFile, "utf8"),
    /^103\n.*unable to find a valid repository/s,
    "the reason is left for the sidecar",
  );
  await unready.pgbackrest.command("create", create);
  t.equal((await push(unready.paths.pushScript)).code, 0);
  await t.rejects(readFile(unready.paths.errorFile), { code: "ENOENT" }, "and gone when it works again");
});

const isRoot = process.getuid?.() === 0;
test("a full disk", { skip: !isRoot && "only root can mount a small disk" }, async (t) => {
  const data = await newData(t);
  const directory = await makePostgresTempDirectory("quorate-full-");
  const disk = path.join(directory, "disk");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  await mkdir(disk);
  await run("mount", ["-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", disk]);
  t.teardown(() => run("umount", [disk]));
  const { pgbackrest, paths } = await open(
    directory,
    data,
    { repository: { type: "posix", path: disk } },
    "a key",
  );
  await pgbackrest.command("create", create);
  await writeFile(paths.readyFile, "");
  const wal = path.join(data, "pg_wal/000000010000000000000001");
  const content = await readFile(wal);
  await writeFile(wal, Buffer.concat([content.subarray(0, 8192), randomBytes(content.length - 8192)]));
  t.match(await failure(pgbackrest.command("push", ["archive-push", wal])), {
    code: "repository_full",
    message: /the repository is full: .*make room where the repository lies/s,
  });
  const { code } = await runAsPostgres(paths.pushScript, [wal], { okCodes: [0, 103, 104], cwd: data });
  t.not(code, 0, "the archiver is told to try again");
  const words = await readFile(paths.errorFile, "utf8");
  const alarm = pushFailure(words, await pgbackrest.freeBytes());
  t.equal(alarm.code, "repository_full", "as the sidecar reads it");
  t.equal(
    pushFailure("", null).code,
    "repository_full",
    "the node's own disk is full, too: it left no words",
  );
});

/** A pgBackRest that says what we want it to say. */
async function fake(t: Test, says: string, code: number): Promise<string> {
  const directory = await makePostgresTempDirectory("quorate-fake-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const file = path.join(directory, "pgbackrest");
  await writeFile(file, `#!/bin/sh\nprintf '%s\\n' "${says}" >&2\nexit ${code}\n`);
  await chmod(file, 0o755);
  return file;
}

test("a full disk, a repository of a newer version, a server that is away: by their words", async (t) => {
  const cases = [
    [
      104,
      "ERROR: [104]: archive-push command encountered error(s): [FileWriteError] unable to write 'x': [28] No space left on device",
      "repository_full",
      /make room/,
    ],
    [
      38,
      "ERROR: [038]: unexpected control version = 2100 and catalog version = 1 HINT: is this version of PostgreSQL supported?",
      "version_mismatch",
      /stanza/,
    ],
    [
      49,
      "ERROR: [049]: unable to connect to 'h:8432': [111] Connection refused",
      "repository_unreachable",
      /tried again/,
    ],
    [
      82,
      "ERROR: [082]: WAL segment 000000010000000000000003 was not archived before the 60000ms timeout",
      "archive_gap",
      /new backup/,
    ],
    [1, "ERROR: [001]: something new", "backup_failed", /backup\/log/],
  ] as const;
  for (const [exit, says, code, todo] of cases) {
    const { pgbackrest } = await repository(t, "/nowhere", { pgbackrest: await fake(t, says, exit) });
    t.match(await failure(pgbackrest.info()), { code, message: todo }, code);
  }
  const slow = await fake(t, "x", 0);
  await writeFile(slow, "#!/bin/sh\nexec sleep 60\n");
  const silent = await repository(t, "/nowhere", { pgbackrest: slow });
  t.match(
    await failure(silent.pgbackrest.command("reading", ["info"], { timeoutMs: 500 })),
    { code: "repository_unreachable", message: /no answer within 0\.5 s/ },
    "one that doesn't answer at all",
  );
  const gone = await repository(t, "/nowhere");
  const { pgbackrest } = await open(gone.directory, "/nowhere", { pgbackrest: await fake(t, "", 0) }, "k");
  await t.rejects(
    pgbackrest.command("x", ["info"]).then(() => pgbackrest.info()),
    "no JSON is no answer",
  );
  t.throws(
    () =>
      prepareBackup({
        config: {
          host: "h",
          backup: backupConfigSchema.parse({
            pgbackrest: "/no/such/program",
            repository: { type: "posix", path: "/x" },
            cipherKeyFile: null,
          }),
        },
        paths: gone.paths,
        stanza: "main",
        postgres: { dataDirectory: "/d", socketDirectory: "/d", port: 1 },
        owner,
      }),
    { code: "bad_config", message: /backup\.pgbackrest/ },
  );
});

test("WAL beyond the limit is dropped instead of filling the disk, and that is remembered", async (t) => {
  const data = await newData(t);
  const { pgbackrest, paths } = await repository(t, data, { archive: { limitBytes: 64 * 1024 ** 2 } });
  const wal = path.join(data, "pg_wal");
  const first = path.join(wal, "000000010000000000000001");
  const content = await readFile(first);
  const waits = async (count: number): Promise<void> => {
    for (let i = 1; i <= count; i++) {
      const name = `00000001000000000000000${i}`;
      await writeFile(path.join(wal, name), content);
      await writeFile(path.join(wal, "archive_status", `${name}.ready`), "");
    }
  };
  const push = () =>
    runAsPostgres(paths.pushScript, ["pg_wal/000000010000000000000001"], { cwd: data, okCodes: [0, 1] });
  const dropped = async (): Promise<void> => {
    const { stderr, code } = await push();
    t.equal(code, 0, "Postgres may remove the segment");
    t.match(stderr, /dropped WAL file '000000010000000000000001'/);
    t.match(await readFile(paths.droppedFile, "utf8"), /000000010000000000000001/);
    await rm(paths.droppedFile);
  };
  await waits(2);
  t.equal((await push()).code, 1, "below the limit it waits until the repository is ready");
  await waits(6);
  await dropped();
  await pgbackrest.command("create", create);
  await writeFile(paths.readyFile, "");
  await dropped();
});

test("a repository that goes while it is read is out of reach, not empty", async (t) => {
  const data = await newData(t);
  const first = await repository(t, data);
  await first.pgbackrest.command("create", create);
  const place = path.join(first.directory, "backup");
  const real = (await ensurePgbackrest()).command;
  const program = path.join(first.directory, "pgbackrest-late");
  await writeFile(program, `#!/bin/sh\nmv '${place}' '${place}.away'\nexec '${real}' "$@"\n`);
  await chmod(program, 0o755);
  const late = await open(first.directory, data, { pgbackrest: program }, "a key");
  t.match(await failure(late.pgbackrest.info()), { code: "repository_unreachable" });
});

test("segments that nobody archived are marked again; what is gone is a gap", async (t) => {
  const directory = await makePostgresTempDirectory("quorate-wal-");
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const status = path.join(directory, "pg_wal/archive_status");
  await mkdir(status, { recursive: true });
  const name = (i: number) => `00000002000000000000000${i}`;
  for (const i of [1, 2, 3]) await writeFile(path.join(directory, "pg_wal", name(i)), "");
  await writeFile(path.join(status, `${name(1)}.done`), "");
  await writeFile(path.join(status, `${name(2)}.ready`), "");
  const full = await repairArchive(directory, owner, [1, 2, 3, 4].map(name), 0);
  t.same(full, { marked: [], waiting: [name(2)], lost: [name(4)] }, "no more than there is room for");
  const outcome = await repairArchive(directory, owner, [1, 2, 3, 4].map(name), 9);
  t.same(outcome, { marked: [name(1), name(3)], waiting: [name(2)], lost: [name(4)] });
  for (const i of [1, 2, 3]) await t.resolves(readFile(path.join(status, `${name(i)}.ready`)));
  await t.rejects(readFile(path.join(status, `${name(1)}.done`)), { code: "ENOENT" });
});
