/** What a failure of pgBackRest means and what to do about it: by its exit code and its words. Pure. */
import type { SidecarErrorCode } from "../error-codes.ts";

export type BackupFailure = {
  readonly code: SidecarErrorCode;
  readonly message: string;
  readonly todo: string;
};

type Pattern = {
  readonly code: SidecarErrorCode;
  readonly match: RegExp;
  readonly says: string;
  readonly todo: string;
};

/** The first that matches counts. */
const patterns: readonly Pattern[] = [
  {
    code: "repository_full",
    match: /No space left on device|Disk quota exceeded|ENOSPC|EntityTooLarge|QuotaExceeded/i,
    says: "the repository is full",
    todo: "make room where the repository lies, or lower backup.retention in sidecar.json; archiving goes on by itself",
  },
  {
    code: "certificate_refused",
    match: /unable to verify certificate|certificate verify failed|access denied for client|TLS error/i,
    says: "the other side of a TLS connection doesn't accept the certificate, or its own can't be trusted",
    todo: "see that both sides have certificates of one authority (backup.tls.caFile) and that backup.tls.clients names the client",
  },
  {
    code: "wrong_repository_key",
    match:
      /key\/value found outside of section|unable to (?:decrypt|flush)|CryptoError|cipher (?:header|type)|invalid checksum, actual .* but expected|SignatureDoesNotMatch|InvalidAccessKeyId|AccessDenied|403 \(Forbidden\)/i,
    says: "the repository can't be read with this key",
    todo: "put the key that the repository was made with into backup.cipherKeyFile (or the access key into keyFile and keySecretFile)",
  },
  {
    code: "version_mismatch",
    match:
      /do(?:es)? not match (?:the )?(?:database|stanza|repo\d+ stanza)|ArchiveMismatchError|BackupMismatchError|unexpected control version|VersionNotSupported|is this version of PostgreSQL supported|expects? format \d+/i,
    says: "the repository belongs to another cluster or another version of PostgreSQL",
    todo: "give this cluster a repository path or backup.stanza of its own; after a major upgrade run pgbackrest stanza-upgrade",
  },
  {
    code: "archive_gap",
    match:
      /WAL segment .* was not archived before|unable to find WAL|missing WAL|WAL segment .* not found|archive gap|ArchiveTimeoutError/i,
    says: "WAL is missing in the archive",
    todo: 'see archive in "quorate status": if a segment is lost, a new backup is made by itself and restores work from there on',
  },
  {
    code: "nothing_to_restore",
    match:
      /no backup sets? (?:found )?to restore|backup set .* is not valid|automatic backup set selection cannot be performed/i,
    says: "no backup fits",
    todo: 'choose a later target: "quorate status" shows from when on one can restore',
  },
  {
    code: "backup_running",
    match: /unable to acquire (?:lock|pgBackRest advisory lock)|LockAcquireError/i,
    says: "another backup or restore holds the lock",
    todo: "wait until it has ended; pgBackRest allows one at a time",
  },
  {
    code: "repository_unreachable",
    match:
      /HostConnectError|unable to connect|timeout connecting|Connection refused|unable to get address|ServiceError|unable to find a valid repository|FileMissingError|PathMissingError|unable to (?:open|create|list|sync|get info for) (?:missing )?(?:file|path)|Permission denied|Input\/output error|Stale file handle|Read-only file system/i,
    says: "the repository can't be reached",
    todo: "see that the path, host or bucket of backup.repository exists and that Postgres's user may write there; it is tried again",
  },
];

/** pgBackRest's exit codes, for messages in other words. */
const byExitCode: Readonly<Record<number, SidecarErrorCode>> = {
  28: "version_mismatch",
  38: "version_mismatch",
  44: "version_mismatch",
  49: "repository_unreachable",
  50: "backup_running",
  55: "repository_unreachable",
  75: "nothing_to_restore",
  82: "archive_gap",
  95: "wrong_repository_key",
};

/** pgBackRest's ERROR lines, without time stamps, hints and bytes of a file that was read with a wrong key. */
export function errorLines(output: string): string {
  const lines = output
    .split("\n")
    .filter((line) => !/P\d\d +(?:INFO|DETAIL|DEBUG):/.test(line))
    .map((line) => line.replace(/^.*P\d\d\s+(?:ERROR|WARN): */, "").trim())
    .filter((line) => line !== "" && !line.startsWith("HINT"));
  const text = lines.slice(0, 4).join("; ");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is to be removed
  return text.replace(/at line \d+: .*?(?=;|$)/gs, "").replace(/[\x00-\x1f\x7f-\uffff]+/g, "?");
}

/** `freeBytes`: of the repository's disk; pgBackRest reports a full disk under other names. */
export function explainFailure(
  exitCode: number,
  output: string,
  freeBytes: number | null = null,
): BackupFailure {
  const full =
    freeBytes !== null && freeBytes < 32 * 1024 ** 2 && /unable to (?:write|create|move|sync)/.test(output);
  const detail = errorLines(output);
  const found =
    (full ? patterns.find(({ code }) => code === "repository_full") : undefined) ??
    patterns.find(({ match }) => match.test(output)) ??
    patterns.find(({ code }) => code === byExitCode[exitCode]);
  if (found === undefined)
    return {
      code: "backup_failed",
      message: `pgBackRest failed (exit code ${exitCode}): ${detail}`,
      todo: "read the log in the node's backup/log directory",
    };
  return { code: found.code, message: `${found.says}: ${detail}`, todo: found.todo };
}
