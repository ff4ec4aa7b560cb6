/** Where everything of a node lies (docs/data-root.md). */
import { join } from "node:path";
import type { TlsFiles } from "@quorate/common";

export type NodePaths = {
  readonly root: string;
  readonly pidFile: string;
  readonly data: string;
  /** A new data directory while it is made; becomes `data` by rename. */
  readonly dataNew: string;
  /** Data that lacks log which nobody has any more, until it is brought up to date or made anew. */
  readonly dataOutdated: string;
  /** Where the log of that ends. */
  readonly outdated: string;
  readonly state: string;
  readonly promise: string;
  readonly incarnation: string;
  readonly memory: string;
  readonly events: string;
  /** What gateways hold of Postgres's connections. */
  readonly leases: string;
  /** Written now and then, to see whether the disk works. */
  readonly diskCheck: string;
  readonly passFile: string;
  /** What Postgres shows to clients and other nodes: copies that belong to its user. */
  readonly tls: TlsFiles & { readonly directory: string };
  readonly run: string;
  readonly controlSocket: string;
  readonly log: string;
  readonly postgresLog: string;
};

export function nodePaths(root: string): NodePaths {
  const state = join(root, "state");
  const run = join(root, "run");
  const log = join(root, "log");
  return {
    root,
    pidFile: join(root, "sidecar.pid"),
    data: join(root, "data"),
    dataNew: join(root, "data.new"),
    dataOutdated: join(root, "data.outdated"),
    outdated: join(state, "outdated.json"),
    state,
    promise: join(state, "promise.json"),
    incarnation: join(state, "incarnation.json"),
    memory: join(state, "node.json"),
    events: join(state, "events.jsonl"),
    leases: join(state, "leases.json"),
    diskCheck: join(state, "disk-check"),
    passFile: join(run, "replication.pgpass"),
    tls: {
      directory: join(run, "tls"),
      ca: join(run, "tls", "ca.pem"),
      cert: join(run, "tls", "cert.pem"),
      key: join(run, "tls", "key.pem"),
    },
    run,
    controlSocket: join(run, "control.sock"),
    log,
    postgresLog: join(log, "postgres.log"),
  };
}
