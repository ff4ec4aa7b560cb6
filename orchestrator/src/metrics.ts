// Prometheus metrics of one orchestrator; docs/operating.md lists them.
import type { Decision, NodeId, Observation, Outcome } from "@quorate/consensus";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Listener } from "./orchestrator.ts";
import type { CallRecord } from "./shell/coordinator-shell.ts";

const secondsBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export class Metrics implements Listener {
  readonly registry = new Registry();
  readonly #calls: Histogram<"method" | "node" | "result">;
  readonly #changes: Histogram<"outcome">;
  readonly #repairs: Counter<"node" | "action" | "result">;
  readonly #leader: Gauge<"node">;
  readonly #term: Gauge;
  readonly #reachable: Gauge<"node">;
  readonly #verdict: Gauge<"row">;

  constructor(labels: Readonly<Record<string, string>>) {
    const registers = [this.registry];
    this.registry.setDefaultLabels({ ...labels });
    this.#calls = new Histogram({
      name: "quorate_orchestrator_call_seconds",
      help: "Calls to sidecars during leader changes",
      labelNames: ["method", "node", "result"],
      buckets: secondsBuckets,
      registers,
    });
    this.#changes = new Histogram({
      name: "quorate_orchestrator_leader_change_seconds",
      help: "Attempts to change the leader, from the decision to the outcome",
      labelNames: ["outcome"],
      buckets: secondsBuckets,
      registers,
    });
    this.#repairs = new Counter({
      name: "quorate_orchestrator_repairs_total",
      help: "Repairs of single nodes",
      labelNames: ["node", "action", "result"],
      registers,
    });
    this.#leader = new Gauge({
      name: "quorate_orchestrator_leader",
      help: "1 for the node that this orchestrator sees leading",
      labelNames: ["node"],
      registers,
    });
    this.#term = new Gauge({
      name: "quorate_orchestrator_term",
      help: "Term of the leader that this orchestrator sees",
      registers,
    });
    this.#reachable = new Gauge({
      name: "quorate_orchestrator_node_reachable",
      help: "1 while the node's sidecar is in reach",
      labelNames: ["node"],
      registers,
    });
    this.#verdict = new Gauge({
      name: "quorate_orchestrator_verdict",
      help: "1 for the row of the failure table that applies to the leader now",
      labelNames: ["row"],
      registers,
    });
  }

  call = ({ call, result, durationMs }: CallRecord): void => {
    const outcome = result.kind === "refused" || result.kind === "unreachable" ? result.kind : "done";
    this.#calls.observe({ method: call.method, node: call.node, result: outcome }, durationMs / 1000);
  };

  change = (outcome: Outcome, durationMs: number): void => {
    this.#changes.observe({ outcome: outcome.kind }, durationMs / 1000);
  };

  repair = (node: NodeId, action: string, ok: boolean): void => {
    this.#repairs.inc({ node, action, result: ok ? "done" : "failed" });
  };

  decisions = ([first]: readonly Decision[]): void => {
    this.#verdict.reset();
    if (first !== undefined) this.#verdict.set({ row: first.row }, 1);
  };

  /** Set when somebody asks, from what is seen then. */
  async render(observation: Observation | undefined): Promise<string> {
    this.#leader.reset();
    this.#reachable.reset();
    let term = 0;
    let leader: NodeId | undefined;
    for (const { id, link, view } of observation?.nodes.values() ?? []) {
      this.#reachable.set({ node: id }, link === "connected" ? 1 : 0);
      if (link === "connected" && view?.state === "leader" && view.term > term) {
        term = view.term;
        leader = id;
      }
    }
    if (leader !== undefined) this.#leader.set({ node: leader }, 1);
    this.#term.set(term);
    return this.registry.metrics();
  }
}
