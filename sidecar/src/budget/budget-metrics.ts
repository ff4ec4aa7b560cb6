/** What of Postgres's connections gateways may have, and have been promised. */
import { Gauge, type Registry } from "prom-client";
import type { ConnectionBudget } from "./connection-budget.ts";

export function registerBudgetMetrics(registry: Registry, connections: ConnectionBudget): void {
  const gauge = (name: string, help: string, value: () => number): void => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value());
      },
    });
  };
  gauge(
    "quorate_connection_budget",
    "Connections of Postgres that gateways may have together",
    () => connections.budget,
  );
  gauge("quorate_connections_leased", "Connections that are leased to gateways", () => connections.leased);
}
