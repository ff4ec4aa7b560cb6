import { defineErrors } from "@quorate/common";

/** Errors of the CLI and the orchestrator. */
export const orchestratorErrors = defineErrors({
  bad_option: {
    means: "An option or argument of the command has a value that can't be used; nothing was changed.",
    todo: "Correct it as the message says; the verb's --help shows what is possible.",
  },
  bootstrap_failed: {
    means: "A new cluster could not be brought to its first leader and full ruleset.",
    todo: 'Read the named node\'s log with "quorate logs ID", then run "quorate up" again: it goes on where it stopped.',
  },
  cluster_differs: {
    means: "The directory holds a cluster that is not what the options ask for; nothing was changed.",
    todo: "Leave out the options to start the cluster as it is, or choose another directory with --dir.",
  },
  directory_closed: {
    means: "User postgres, who runs Postgres when Quorate runs as root, can't enter a directory on the way.",
    todo: "Choose another directory with --dir, or open the named one with chmod o+x.",
  },
  directory_in_use: {
    means: "The directory holds something else than a Quorate cluster; nothing was changed.",
    todo: "Choose an empty or a new directory with --dir.",
  },
  leader_change_failed: {
    means: "A change of the leader could not be completed; no acknowledged transaction is lost.",
    todo: "The message says which nodes are missing for what; bring one of them back and try again.",
  },
  no_backup_program: {
    means: "No pgBackRest that knows PostgreSQL 18 is to be had; nothing was started or changed.",
    todo: "Install pgBackRest 2.57 or newer, or start the cluster with --no-backup.",
  },
  no_backups: {
    means:
      "The cluster has no backup section in its sidecar.json files: there is no repository to look into.",
    todo: "Add one as docs/backup.md shows and restart the sidecars.",
  },
  no_cluster: {
    means: "There is no cluster.json in the directory.",
    todo: 'Start a cluster with "quorate up", or name its directory with --dir or QUORATE_DIR.',
  },
  no_leader: {
    means: "No node leads the cluster at the moment.",
    todo: 'Look at "quorate status"; "quorate logs" of an orchestrator says what is missing for an election.',
  },
  node_unreachable: {
    means: "A node's sidecar doesn't answer.",
    todo: 'Look at "quorate status" and "quorate logs ID"; "quorate up" starts what doesn\'t run.',
  },
  not_running: {
    means: "The cluster's processes don't run.",
    todo: 'Start them with "quorate up".',
  },
  port_taken: {
    means: "Another program listens on a port that the cluster needs; nothing was changed.",
    todo: "Choose other ports with --base-port, or stop that program.",
  },
  refused: {
    means: "A node refused a request, with its reason in the message.",
    todo: 'Look at "quorate status" and follow the reason.',
  },
  unknown_node: {
    means: "The cluster has no node of that name; nothing was changed.",
    todo: "Use one of the names that the message lists.",
  },
});

export const errorTable = orchestratorErrors.table;

export type OrchestratorErrorCode = keyof typeof errorTable & string;
