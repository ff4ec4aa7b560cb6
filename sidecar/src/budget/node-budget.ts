/** The budget of one node: its Postgres tells how many connections it has. */

import { localQuery } from "../backup/local-sql.ts";
import type { SidecarConfig } from "../config.ts";
import type { NodePaths } from "../paths.ts";
import { defaultSettings } from "../settings.ts";
import type { SidecarNode } from "../sidecar-node.ts";
import { ConnectionBudget } from "./connection-budget.ts";
import { LeaseFile } from "./lease-file.ts";

const connectionsSql =
  "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int " +
  "- current_setting('reserved_connections')::int as connections";
const askTimeoutMs = 5_000;
/** PostgreSQL's default of superuser_reserved_connections. */
const usuallyReserved = 3;

export function nodeBudget(node: SidecarNode, config: SidecarConfig, paths: NodePaths): ConnectionBudget {
  const { postgres, connections, ports } = config;
  const configured = Number(postgres.settings["max_connections"] ?? defaultSettings["max_connections"]);
  return new ConnectionBudget({
    reserved: connections.reserved,
    configured: configured - usuallyReserved,
    run: () => (node.supervisor.phase === "running" ? node.supervisor.run : null),
    ask: async () => {
      const server = { socketDirectory: paths.run, port: ports.postgres };
      const [row] = await localQuery(server, connectionsSql, {
        applicationName: "quorate sidecar",
        statementTimeoutMs: askTimeoutMs,
      });
      return Number(row?.["connections"]);
    },
    file: new LeaseFile(paths.leases, (error) =>
      node.logger.warn({ err: error }, "what gateways hold can't be kept in a file"),
    ),
    onError: (error) => node.logger.warn({ err: error }, "Postgres doesn't say how many connections it has"),
  });
}
