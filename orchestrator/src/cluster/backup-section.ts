// The backup section of a new cluster's sidecar.json: the local default, or what a file of the operator's says.
import { readFileSync } from "node:fs";
import path from "node:path";
import { messageOf } from "@quorate/common";
import { type BackupConfigInput, backupConfigSchema } from "@quorate/sidecar/backup/backup-config.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { localBackup } from "./files.ts";

/** `file`: the parts of the section that are not as usual; its paths are absolute. Undefined: all as usual. */
export function backupSection(file: string | undefined, pgbackrest: string): BackupConfigInput {
  const usual = localBackup(pgbackrest);
  if (file === undefined) return usual;
  const bad = (what: string): Error =>
    orchestratorErrors.error("bad_option", `--backup ${file}: ${what}; docs/backup.md describes the section`);
  let given: Partial<BackupConfigInput>;
  try {
    given = JSON.parse(readFileSync(file, "utf8")) as Partial<BackupConfigInput>;
  } catch (error) {
    throw bad(messageOf(error));
  }
  const parsed = backupConfigSchema.safeParse({ ...usual, ...given });
  if (!parsed.success)
    throw bad(parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; "));
  const relative = pathsOf(given).find((each) => !path.isAbsolute(each));
  if (relative !== undefined) throw bad(`${relative} is no absolute path`);
  return { ...usual, ...given };
}

function pathsOf({ pgbackrest, repository, cipherKeyFile, tls }: Partial<BackupConfigInput>): string[] {
  const files =
    repository?.type === "s3"
      ? [repository.keyFile, repository.keySecretFile, repository.caFile]
      : [repository?.path];
  return [pgbackrest, cipherKeyFile, tls?.certFile, tls?.keyFile, tls?.caFile, ...files].filter(
    (each) => typeof each === "string",
  );
}

/** Whether they are encrypted with the key that is generated. */
export function hasOwnKey({ cipherKeyFile }: BackupConfigInput): boolean {
  return cipherKeyFile === localBackup("").cipherKeyFile;
}

/** Whether backups go into a directory of the cluster's own. */
export function isUsual({ repository }: BackupConfigInput): boolean {
  const usual = localBackup("").repository;
  return repository.type === "posix" && usual.type === "posix" && repository.path === usual.path;
}
