import { defineErrors } from "./errors.ts";

/** Errors of the shared library. */
export const commonErrors = defineErrors({
  assertion_failed: {
    means: "An invariant of the program itself doesn't hold; the operation was given up rather than guessed.",
    todo: "Report it with the log; the component may be restarted.",
  },
  build_failed: {
    means: "PostgreSQL or the extension could not be built.",
    todo: "The message shows the end of the build log and names the file; install what it misses.",
  },
  cache_closed: {
    means:
      "The cache of built programs lies below a directory that other users can't enter, so Postgres can't run.",
    todo: "Set QUORATE_CACHE_DIR to a directory that every user can read.",
  },
  command_failed: {
    means: "A program that Quorate started ended with an error, or not in time.",
    todo: "Read its output, which follows in the message.",
  },
  file_damaged: {
    means: "A file that Quorate wrote has a wrong checksum or isn't readable as what it should be.",
    todo: "Restore or remove the named file as its page in docs/ says; don't edit it by hand.",
  },
  no_pgbackrest: {
    means: "No pgBackRest that knows PostgreSQL 18 was found on the system nor on the network.",
    todo: "Install one, or provide its packages as the message says.",
  },
  no_postgres_source: {
    means: "The source of the PostgreSQL release was found neither here nor on the network.",
    todo: "Put the tarball that the message names into a folder and set QUORATE_SOURCE_DIR to it.",
  },
  no_such_os_user: {
    means: "Postgres must not run as root, and the unprivileged user that should run it doesn't exist.",
    todo: "Create the user (useradd --system postgres), name another, or start Quorate as an ordinary user.",
  },
  timed_out: {
    means: "Something that was waited for didn't happen within its time limit.",
    todo: "The message names it; look at the log of the component that should have done it.",
  },
});

export const errorTable = commonErrors.table;
