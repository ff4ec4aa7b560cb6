import { defineErrors } from "@quorate/common";

export const sidecarErrors = defineErrors({
  archive_failed: {
    means: "WAL could not be archived, for a reason that Quorate has no name for; it is tried again.",
    todo: "Read pgBackRest's message; the log of the leader's Postgres has all of it.",
  },
  archive_gap: {
    means:
      "WAL is missing in the archive: one can't restore to a moment between the gap and the next backup.",
    todo: "A new backup is made by itself as soon as the repository works; see to the reason that archiving failed.",
  },
  archive_lagging: {
    means: "WAL waits to be archived; beyond backup.archive.limitBytes it would be dropped.",
    todo: "Look at the failure that status shows beside it; archiving goes on by itself.",
  },
  backup_failed: {
    means: "pgBackRest failed for a reason that Quorate has no name for.",
    todo: "Read its message, and the logs in the node's backup/log directory.",
  },
  backup_running: {
    means: "pgBackRest's lock is held by another backup or restore.",
    todo: "Wait until it has ended, then try again.",
  },
  backup_too_old: {
    means: "The schedule should have made two backups since the newest one.",
    todo: "Look at the last failed backup in status; until then a restore has more WAL to replay.",
  },
  bad_config: {
    means: "sidecar.json, cluster.json or something on the machine that they name is wrong.",
    todo: "Do what the message says; nothing was started or changed.",
  },
  certificate_refused: {
    means: "pgBackRest's TLS between nodes, or to the storage, was refused because of a certificate.",
    todo: "Give both sides certificates of one authority and name the client in backup.tls.clients.",
  },
  nothing_to_restore: {
    means: "No backup reaches the asked target.",
    todo: "Choose a target within what status shows as restorable.",
  },
  replay_failed: {
    means: "A restored backup could not replay the archive to the asked target.",
    todo: "The message is that of Postgres; most often the target lies beyond the end of the archive.",
  },
  repository_full: {
    means: "There is no room left where the backup repository lies.",
    todo: "Make room, or keep fewer backups (backup.retention); archiving goes on by itself.",
  },
  repository_unreachable: {
    means: "The backup repository can't be reached or written.",
    todo: "See to its path, host or bucket and to the rights of the user that runs Postgres; it is tried again.",
  },
  restore_test_failed: {
    means: "The scheduled restore of the newest backup failed, or amcheck found damage in it.",
    todo: "Make a new full backup and look at the node's log; older backups may be sound: verify them.",
  },
  verify_failed: {
    means: "A file in the repository is missing or doesn't have its checksum.",
    todo: "Make a new full backup and look at the repository's disk; the message says which backups are affected.",
  },
  version_mismatch: {
    means: "The repository belongs to another cluster, or to another version of PostgreSQL or pgBackRest.",
    todo: "Give the cluster a repository path or a stanza of its own.",
  },
  wrong_repository_key: {
    means: "The repository was made with another encryption key, or the access key is refused.",
    todo: "Put the right key into the file that backup.cipherKeyFile (or keyFile and keySecretFile) names.",
  },
});

export const errorTable = sidecarErrors.table;
export type SidecarErrorCode = keyof typeof errorTable & string;
