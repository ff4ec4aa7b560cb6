import { rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { freePort, makePostgresTempDirectory, runAsPostgres } from "@quorate/common";
import { test } from "tap";
import { ensurePostgres } from "../scripts/build-postgres.ts";
import { ensurePgbackrest } from "../scripts/pgbackrest.ts";

test("the private pgBackRest backs up our Postgres, its helper processes included", async (t) => {
  const { bin } = await ensurePostgres({ flavour: "patched" });
  const pgbackrest = await ensurePgbackrest({ privateOnly: true });
  t.match(pgbackrest.version, /^\d+\.\d+/);

  const directory = await makePostgresTempDirectory();
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const at = (...parts: string[]) => path.join(directory, ...parts);
  const port = await freePort();
  const config = [
    "[global]",
    `repo1-path=${at("repo")}`,
    `log-path=${directory}`,
    `spool-path=${directory}`,
    `lock-path=${directory}`,
    "log-level-file=off",
    "process-max=2",
    "start-fast=y",
    "[main]",
    `pg1-path=${at("data")}`,
    `pg1-port=${port}`,
    `pg1-socket-path=${directory}`,
    "pg1-user=postgres",
  ].join("\n");
  await writeFile(at("pgbackrest.conf"), `${config}\n`, { mode: 0o644 });
  const backrest = (...args: string[]) =>
    runAsPostgres(pgbackrest.command, [`--config=${at("pgbackrest.conf")}`, "--stanza=main", ...args], {
      timeoutMs: 120_000,
    });

  await runAsPostgres(path.join(bin, "initdb"), [
    "-D",
    at("data"),
    "-U",
    "postgres",
    "-A",
    "trust",
    "--no-sync",
  ]);
  const archive = `${pgbackrest.command} --config=${at("pgbackrest.conf")} --stanza=main archive-push %p`;
  const settings = [
    `-c port=${port}`,
    "-c listen_addresses=",
    `-c unix_socket_directories=${directory}`,
    "-c fsync=off -c archive_mode=on",
    `-c archive_command='${archive}'`,
  ].join(" ");
  const pgCtl = path.join(bin, "pg_ctl");
  await runAsPostgres(pgCtl, ["-D", at("data"), "-w", "-l", at("postgres.log"), "-o", settings, "start"]);
  t.teardown(() =>
    runAsPostgres(pgCtl, ["-D", at("data"), "-w", "-m", "immediate", "stop"], { okCodes: [0, 1] }),
  );

  await backrest("stanza-create");
  await backrest("--type=full", "backup");
  const info: unknown = JSON.parse((await backrest("--output=json", "info")).stdout);
  t.match(info, [{ name: "main", status: { code: 0 }, backup: [{ type: "full", error: false }] }]);

  await runAsPostgres("mkdir", ["-m", "700", at("restored")]);
  await backrest(`--pg1-path=${at("restored")}`, "restore");
  const identifier = async (data: string) =>
    /Database system identifier: +(\d+)/.exec(
      (await runAsPostgres(path.join(bin, "pg_controldata"), [data])).stdout,
    )?.[1];
  t.match(await identifier(at("restored")), /^\d+$/);
  t.equal(await identifier(at("restored")), await identifier(at("data")));
});
