/** What /metrics shows; the names are documented in docs/sidecar.md and don't change without a word there. */
import type { NodeStatus } from "@quorate/proto";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { SidecarEvent } from "./sidecar-node-types.ts";

export class SidecarMetrics {
  readonly registry = new Registry();
  readonly #crashes: Counter;
  readonly #requests: Counter<"request" | "code">;
  readonly #requestSeconds: Histogram<"request">;
  readonly #gauges: readonly [Gauge, (status: NodeStatus) => number][];

  constructor(status: () => NodeStatus, watchers: () => number, labels: Readonly<Record<string, string>>) {
    const { registry } = this;
    const registers = [registry];
    registry.setDefaultLabels(labels);
    collectDefaultMetrics({ register: registry, prefix: "quorate_sidecar_" });
    this.#crashes = new Counter({
      name: "quorate_postgres_crashes_total",
      help: "Times that Postgres ended without having been asked to",
      registers,
    });
    this.#requests = new Counter({
      name: "quorate_requests_total",
      help: "Requests of coordinators by outcome",
      labelNames: ["request", "code"],
      registers,
    });
    this.#requestSeconds = new Histogram({
      name: "quorate_request_seconds",
      help: "Time to answer a coordinator",
      labelNames: ["request"],
      buckets: [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60],
      registers,
    });
    const gauge = (
      name: string,
      help: string,
      value: (status: NodeStatus) => number,
    ): [Gauge, typeof value] => [new Gauge({ name, help, registers }), value];
    this.#gauges = [
      gauge("quorate_postgres_up", "1 if Postgres runs and answers", (s) => Number(s.postgres === "running")),
      gauge("quorate_leader", "1 if this node leads", (s) => Number(s.state === "leader")),
      gauge("quorate_term", "Term of this node", (s) => s.term),
      gauge("quorate_promised_term", "Highest term that this node promised", (s) => s.promisedTerm),
      gauge("quorate_ruleset_version", "Version of the applied ruleset", (s) => s.ruleset?.version ?? 0),
      gauge("quorate_commit_lsn_bytes", "Commit LSN", (s) => Number(s.commitLsn ?? 0n)),
      gauge("quorate_received_lsn_bytes", "Received LSN", (s) => Number(s.receivedLsn ?? 0n)),
      gauge("quorate_flushed_lsn_bytes", "Flushed LSN", (s) => Number(s.flushedLsn ?? 0n)),
      gauge("quorate_applied_lsn_bytes", "Applied LSN", (s) => Number(s.appliedLsn ?? 0n)),
      gauge("quorate_followers", "Nodes that stream from this one", (s) => s.followers.length),
      gauge("quorate_waiting_backends", "Backends that wait for the quorum", (s) => s.waiting),
    ];
    const watching = new Gauge({
      name: "quorate_watchers",
      help: "Coordinators that watch this node",
      registers,
    });
    const [first] = this.#gauges;
    if (first === undefined) return;
    // One status for all gauges of a scrape.
    Object.assign(first[0], {
      collect: () => {
        const now = status();
        for (const [each, value] of this.#gauges) each.set(value(now));
        watching.set(watchers());
      },
    });
  }

  record(event: SidecarEvent): void {
    if (event.kind === "crash") this.#crashes.inc();
    if (event.kind === "answered") {
      this.#requests.inc({ request: event.request, code: event.code });
      this.#requestSeconds.observe({ request: event.request }, event.durationMs / 1_000);
    }
  }
}
