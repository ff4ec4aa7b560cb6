// A coordinator for one errand: watches the cohort, waits for conditions, changes the leader. The CLI uses it; it is a
// coordinator like the orchestrators, with a name of its own.
import { randomBytes } from "node:crypto";
import { commonErrors, type Logger } from "@quorate/common";
import {
  type ChangeRequest,
  type CoordinatorId,
  coordinatorId,
  type NodeId,
  type Observation,
  type Outcome,
  seenBefore,
} from "@quorate/consensus";
import type { NodeStatus, SidecarClient } from "@quorate/proto";
import { addressesOf } from "../addresses.ts";
import { AuditTrail, inputsOf } from "../events.ts";
import { look, type Memory, noMemory } from "../observe.ts";
import { CohortWatcher, type WatchedNode } from "./cohort-watcher.ts";
import { CoordinatorShell, type NodeDirectory } from "./coordinator-shell.ts";

export interface SessionOptions {
  readonly addresses: readonly string[];
  readonly log: Logger;
  readonly onNote?: (text: string) => void;
}

export class CohortSession {
  readonly id: CoordinatorId;
  readonly shell: CoordinatorShell;
  readonly #watcher: CohortWatcher;
  readonly #waiters = new Set<() => void>();
  #memory: Memory = noMemory;
  #events = 0;

  constructor(options: SessionOptions) {
    this.id = coordinatorId(`cli-${randomBytes(6).toString("hex")}`);
    const nowMs = (): number => performance.now();
    this.#watcher = new CohortWatcher({
      watcher: this.id,
      nowMs,
      onEvent: (event) => {
        if (event.kind === "status" && event.view.status !== undefined) this.shell.heard(event.view.status);
        for (const wake of this.#waiters) wake();
      },
    });
    this.shell = new CoordinatorShell({
      id: this.id,
      log: options.log,
      nowMs,
      directory: this.directory,
      ...(options.onNote === undefined ? {} : { onNote: options.onNote }),
    });
    for (const address of options.addresses) this.#watcher.add(address);
  }

  readonly directory: NodeDirectory = {
    client: (node) => this.#watcher.client(node),
    endpoint: (node) => {
      const status = this.#watcher.view(node)?.status;
      return status === undefined ? undefined : { host: status.host, port: status.pgPort };
    },
  };

  /** Into the audit trail of every node in reach. */
  async record(event: Parameters<AuditTrail["record"]>[0]): Promise<void> {
    const trail = new AuditTrail({
      by: "operator",
      coordinator: coordinatorId(`${this.id}-${this.#events++}`),
      nodes: () => this.statuses().map(({ node }) => node),
      client: (node) => this.client(node),
    });
    await trail.record({ ...event, inputs: inputsOf(this.observation()) });
  }

  watched(): WatchedNode[] {
    return this.#watcher.views();
  }

  /** The statuses of the nodes that are in reach now. */
  statuses(): NodeStatus[] {
    return this.watched().flatMap(({ reachable, status }) =>
      reachable && status !== undefined ? [status] : [],
    );
  }

  status(node: NodeId): NodeStatus | undefined {
    return this.statuses().find((status) => status.node === node);
  }

  client(node: NodeId): SidecarClient | undefined {
    return this.#watcher.client(node);
  }

  observation(): Observation {
    const seen = look(this.#memory, {
      nowMs: performance.now(),
      watched: this.watched(),
      zone: "",
      busy: new Set(),
    });
    this.#memory = seen.memory;
    for (const { id, grpc } of addressesOf(seen.observation.rulesets)) this.#watcher.add(grpc, id);
    return seen.observation;
  }

  /** Every address has either answered or refused. */
  everybodyHeard(): true | undefined {
    return (
      this.watched().every(({ status, lastEnd }) => status !== undefined || lastEnd !== undefined) ||
      undefined
    );
  }

  /** Looks at each event until `probe` gives a value; undefined when the time is over. */
  async waitFor<T>(probe: () => T | undefined, timeoutMs: number): Promise<T | undefined> {
    const first = probe();
    if (first !== undefined) return first;
    return new Promise((resolve, reject) => {
      const end = (settle: () => void): void => {
        clearTimeout(timer);
        this.#waiters.delete(wake);
        settle();
      };
      const wake = (): void => {
        try {
          const value = probe();
          if (value !== undefined) end(() => resolve(value));
        } catch (error) {
          end(() => reject(error));
        }
      };
      const timer = setTimeout(() => end(() => resolve(undefined)), timeoutMs);
      this.#waiters.add(wake);
    });
  }

  async require<T>(what: string, probe: () => T | undefined, timeoutMs: number): Promise<T> {
    const value = await this.waitFor(probe, timeoutMs);
    if (value !== undefined) return value;
    throw commonErrors.error("timed_out", `waited ${timeoutMs} ms in vain for ${what}`);
  }

  /** Resolves at the next event, or when the time is over. */
  async nextEvent(timeoutMs: number): Promise<void> {
    let looked = false;
    await this.waitFor(() => {
      if (looked) return true;
      looked = true;
      return undefined;
    }, timeoutMs);
  }

  /** Tries again, with the pauses that the core asks for, as long as the time allows. */
  async changeLeader(
    request: Omit<ChangeRequest, keyof ReturnType<typeof seenBefore> | "jitter">,
    timeoutMs: number,
  ): Promise<Outcome> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const outcome = await this.shell.change({
        ...request,
        ...seenBefore(this.observation()),
        jitter: Math.random(),
      });
      if (outcome.kind === "established") return outcome;
      if (performance.now() + outcome.retryAfterMs > deadlineMs) return outcome;
      await new Promise((resolve) => setTimeout(resolve, outcome.retryAfterMs));
    }
  }

  close(): void {
    this.#watcher.close();
  }
}
