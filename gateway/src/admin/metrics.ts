/** The worker's counters in Prometheus's text format, made when they are asked for: nothing is paid on the hot path. */
import type { NodeUse } from "../budget/node-limits.ts";
import type { Worker } from "../worker.ts";

type Sample = { readonly labels: Record<string, string | number>; readonly value: number };

export function metricsText(worker: Worker): string {
  const id = worker.options.workerId;
  const out: string[] = [];
  const add = (name: string, type: string, help: string, samples: readonly Sample[]): void => {
    out.push(`# HELP quorate_gateway_${name} ${help}`, `# TYPE quorate_gateway_${name} ${type}`);
    for (const { labels, value } of samples)
      out.push(`quorate_gateway_${name}${labelText({ worker: id, ...labels })} ${value}`);
  };
  const one = (value: number): Sample[] => [{ labels: {}, value }];
  add("connections_total", "counter", "Clients that logged in.", one(worker.connections));
  add("logins_failed_total", "counter", "Logins that failed.", one(worker.loginsFailed));
  add(
    "follower_reads_total",
    "counter",
    "Transactions for which a follower was chosen.",
    one(worker.followerReads),
  );
  add("clients", "gauge", "Clients that are connected.", one(worker.clients.size));
  add("statements", "gauge", "Prepared statements shared by clients.", one(worker.statements.size));
  add("statements_parsed_total", "counter", "Texts that needed the parser.", one(worker.plans.parses));
  const pools = [...worker.pools.values()];
  const perPool = (value: (pool: (typeof pools)[number]) => number): Sample[] =>
    pools.map((pool) => ({
      labels: { database: pool.database, user: pool.user, node: pool.node ?? "leader" },
      value: value(pool),
    }));
  add(
    "pool_clients",
    "gauge",
    "Clients of a pool.",
    perPool((pool) => pool.clients),
  );
  add(
    "pool_waiting",
    "gauge",
    "Clients that wait for a server connection.",
    perPool((pool) => pool.waitingCount),
  );
  add(
    "pool_servers",
    "gauge",
    "Server connections of a pool.",
    perPool((pool) => pool.servers.size),
  );
  add(
    "pool_idle",
    "gauge",
    "Idle server connections of a pool.",
    perPool((pool) => pool.idle.length),
  );
  histogram(worker, id, out);
  return `${out.join("\n")}\n`;
}

function histogram(worker: Worker, id: number, out: string[]): void {
  const { latency } = worker;
  const name = "quorate_gateway_request_seconds";
  out.push(`# HELP ${name} From a request's arrival to its last byte.`, `# TYPE ${name} histogram`);
  let sum = 0;
  for (let bucket = 0; bucket < latency.counts.length; bucket++) {
    sum += latency.counts[bucket] as number;
    if (bucket % 4 === 0 && bucket < 112) {
      out.push(
        `${name}_bucket${labelText({ worker: id, le: (latency.upperMs(bucket) / 1000).toPrecision(4) })} ${sum}`,
      );
    }
  }
  out.push(
    `${name}_bucket${labelText({ worker: id, le: "+Inf" })} ${latency.count}`,
    `${name}_sum${labelText({ worker: id })} ${latency.sumMs / 1000}`,
    `${name}_count${labelText({ worker: id })} ${latency.count}`,
  );
}

function labelText(labels: Record<string, string | number>): string {
  const parts = Object.entries(labels).map(
    ([name, value]) =>
      `${name}="${String(value).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`,
  );
  return `{${parts.join(",")}}`;
}

/** Shares of servers' connections; the same for all workers. */
export function leaseMetrics(nodes: readonly NodeUse[]): string {
  const gauges = [
    ["lease_connections", "Connections to a node that this gateway may have.", "limit"],
    ["lease_used", "Connections to a node that are open or being opened.", "open"],
    ["lease_wanted", "Connections to a node that there is use for.", "wants"],
  ] as const;
  const lines = gauges.flatMap(([name, help, field]) => [
    `# HELP quorate_gateway_${name} ${help}`,
    `# TYPE quorate_gateway_${name} gauge`,
    ...nodes
      .filter((each) => Number.isFinite(each[field]))
      .map((each) => `quorate_gateway_${name}${labelText({ node: each.node })} ${each[field]}`),
  ]);
  return `${lines.join("\n")}\n`;
}
