/** The gRPC service: requests of coordinators and operators, put to the node. */
import { messageOf } from "@quorate/common";
import {
  bootstrapProblem,
  type NodeAnswer,
  type NodeRequest,
  noLsn,
  noTerm,
  type Promised,
  refusalToTell,
} from "@quorate/consensus";
import type { Accepted, CallContext, Refused, Reply, SidecarHandlers } from "@quorate/proto";
import type { ConnectionBudget } from "./budget/connection-budget.ts";
import { bootstrap, control } from "./operator.ts";
import type { SidecarNode } from "./sidecar-node.ts";
import type { SubmitOptions } from "./sidecar-node-types.ts";

const recruitTimeoutMs = 10_000;
const electTimeoutMs = 30_000;
const followTimeoutMs = 20_000;
/** Postgres answers "timeout" itself; this is for one that doesn't answer at all. */
const controlGraceMs = 1_000;
/** Whoever asks for the status waits no longer for a Postgres that is frozen. */
const refreshTimeoutMs = 200;

export type ServiceOptions = {
  readonly cluster: string;
  readonly shutdown: AbortSignal;
  readonly connections: ConnectionBudget;
};

export function sidecarHandlers(
  node: SidecarNode,
  { cluster, shutdown, connections }: ServiceOptions,
): SidecarHandlers {
  const refuse = (code: string, message: string): Refused => refused(code, message, node.promise);

  async function ask<T>(
    request: NodeRequest,
    options: SubmitOptions,
    result: (answer: Exclude<NodeAnswer, { kind: "refused" }>) => T | null,
  ): Promise<Reply<T>> {
    const answer = await node.submit(request, options);
    if (answer.kind === "refused") return { ok: false, refusal: refusalToTell(answer.refusal) };
    const value = result(answer);
    if (value === null) throw new Error(`${request.kind} was answered with ${answer.kind}`);
    return { ok: true, ...value } as Accepted<T>;
  }

  const handlers: SidecarHandlers = {
    recruit: ({ term, coordinator, reason }, { signal }) =>
      ask(
        { kind: "recruit", term, coordinator, reason },
        { signal, timeoutMs: recruitTimeoutMs },
        (answer) => {
          if (answer.kind !== "recruited") return null;
          const status = node.status();
          const { commitLsn } = answer.report;
          return {
            inRecovery: true,
            leaseMs: 0,
            upMs: 0,
            incarnation: null,
            ...answer.report,
            commitLsn: commitLsn === noLsn ? null : commitLsn,
            systemIdentifier: status.systemIdentifier,
            status,
          };
        },
      ),

    fetch: ({ term, coordinator, from, host, port, target, timeoutMs }, { signal }) =>
      ask(
        { kind: "fetch", term, coordinator, from, target },
        { signal, timeoutMs, peer: { host, port } },
        positionOf,
      ),

    elect: ({ term, coordinator, rule, joint, ruleset }, { signal }) =>
      ask(
        { kind: "elect", term, coordinator, rule, joint, ruleset },
        { signal, timeoutMs: electTimeoutMs },
        positionOf,
      ),

    // Goes on when the caller has given up: a later term stops it, nothing else needs to.
    follow: ({ host, port, ...request }) =>
      new Promise((resolve, reject) => {
        const options = {
          signal: shutdown,
          timeoutMs: followTimeoutMs,
          peer: { host, port },
          onCloning: () => resolve({ ok: true, done: "cloning" }),
        };
        ask({ kind: "follow", ...request }, options, (answer) =>
          answer.kind === "done" ? { done: "following" as const } : null,
        ).then(resolve, reject);
      }),

    changeRuleset: ({ term, rule, ruleset, timeoutMs }, { signal }) =>
      ask({ kind: "changeRuleset", term, rule, ruleset, timeoutMs }, { signal, timeoutMs }, (answer) =>
        answer.kind === "done" && answer.lsn !== undefined ? { lsn: answer.lsn } : null,
      ),

    quiesce: ({ term, on, timeoutMs }, { signal }) =>
      ask(
        { kind: "quiesce", term, on, timeoutMs },
        { signal, timeoutMs: timeoutMs + controlGraceMs },
        (answer) => (answer.kind === "done" ? { lsn: answer.lsn ?? null } : null),
      ),

    async bootstrap(request) {
      if (request.cluster !== cluster)
        return refuse("wrong_cluster", `this node belongs to cluster ${cluster}, not to ${request.cluster}`);
      const postgres = node.data.exists() ? "stopped" : node.supervisor.phase;
      const problem = bootstrapProblem({ postgres, promise: node.promise });
      if (problem !== null) return refuse(problem.code, problem.message);
      return { ok: true, systemIdentifier: await bootstrap(node, shutdown) };
    },

    async control({ action }, context: CallContext) {
      if (node.supervisor.phase === "absent" || node.supervisor.phase === "cloning")
        return refuse("no_data", "this node has no data yet");
      const signal = AbortSignal.any([context.signal, shutdown]);
      const done = await control(node, action, signal);
      if (!done && action === "discard")
        return refuse("not_failed", "this Postgres runs, or may still come up: its data stays");
      if (!done && action === "remake")
        return refuse(
          "not_outdated",
          "this node streams, follows nobody, or was started anew since: its data stays",
        );
      return done
        ? { ok: true, status: node.status() }
        : refuse("timeout", "Postgres was started but doesn't answer yet");
    },

    async record({ event }) {
      try {
        await node.events.append(event);
        return { ok: true, kept: true };
      } catch (error) {
        return refuse("not_recorded", messageOf(error));
      }
    },

    events: async ({ limit }) => ({ ok: true, events: await node.events.read(limit) }),

    async leaseConnections({ ends, ...renewal }) {
      if (!ends) return { ok: true, ...(await connections.lease(renewal)) };
      connections.end(renewal.holder);
      return { ok: true, share: 0, expiresMs: 0, budget: connections.budget };
    },

    async getStatus() {
      await node.supervisor.refresh(refreshTimeoutMs);
      return node.status();
    },

    watch: (request, subscription) => node.watchers.add(request, subscription),
  };
  return afterBegin(handlers, node.begun);
}

/** Every call waits until the node knows how its Postgres is. */
function afterBegin(handlers: SidecarHandlers, begun: Promise<void>): SidecarHandlers {
  return {
    recruit: (request, context) => begun.then(() => handlers.recruit(request, context)),
    fetch: (request, context) => begun.then(() => handlers.fetch(request, context)),
    elect: (request, context) => begun.then(() => handlers.elect(request, context)),
    follow: (request, context) => begun.then(() => handlers.follow(request, context)),
    changeRuleset: (request, context) => begun.then(() => handlers.changeRuleset(request, context)),
    quiesce: (request, context) => begun.then(() => handlers.quiesce(request, context)),
    bootstrap: (request, context) => begun.then(() => handlers.bootstrap(request, context)),
    control: (request, context) => begun.then(() => handlers.control(request, context)),
    record: handlers.record,
    events: handlers.events,
    leaseConnections: handlers.leaseConnections,
    getStatus: (context) => begun.then(() => handlers.getStatus(context)),
    watch: (request, subscription) => {
      void begun.then(() => {
        if (!subscription.signal.aborted) handlers.watch(request, subscription);
      });
    },
  };
}

function positionOf(answer: NodeAnswer): { readonly position: PositionOf } | null {
  return answer.kind === "position" ? { position: answer.position } : null;
}
type PositionOf = Extract<NodeAnswer, { kind: "position" }>["position"];

/** Of the sidecar itself. */
function refused(code: string, message: string, promise: Promised | null): Refused {
  const refusal = {
    code,
    message,
    promisedTerm: promise?.term ?? noTerm,
    promisedTo: promise?.coordinator ?? null,
  };
  return { ok: false, refusal };
}
