/** Who leads, in which term; the gateway sends nothing to anyone else. */
import type { SidecarClient } from "@quorate/proto";
import type { Endpoint } from "../pool/endpoint.ts";

export type FollowerEndpoint = Endpoint & {
  readonly zone: string;
  /** What it had applied when it was heard of last. */
  readonly appliedLsn: bigint;
  /** How far that is behind the highest commit LSN that any node knows. */
  readonly lagBytes: number;
  readonly seenAtMs: number;
};

export type View = {
  readonly leader: Endpoint | undefined;
  /** A planned change is on its way: transactions that are open may end, new ones wait. */
  readonly holding: boolean;
  readonly followers: readonly FollowerEndpoint[];
};

export interface LeaderSource {
  readonly view: View;
  /** Called at each change; gives the way to stop it. */
  subscribe(changed: (view: View) => void): () => void;
  /** Nodes have been added or removed; for sources that listen to sidecars. */
  follow?(addresses: readonly { readonly host: string; readonly grpcPort: number }[]): void;
  /** Those that answer, by node; where there are none, connections are not leased. */
  sidecars?(): ReadonlyMap<string, SidecarClient>;
  close(): void;
}

/** A view that somebody sets: one fixed server, tests, or a worker that is told by the main thread. */
export class SettableLeaderSource implements LeaderSource {
  view: View;
  readonly #listeners = new Set<(view: View) => void>();

  constructor(view: View) {
    this.view = view;
  }

  set(view: View): void {
    this.view = view;
    for (const each of this.#listeners) each(view);
  }

  subscribe(changed: (view: View) => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  close(): void {
    this.#listeners.clear();
  }
}

export function fixedServer(host: string, port: number): SettableLeaderSource {
  return new SettableLeaderSource({
    leader: { node: "server", term: 0, host, port },
    holding: false,
    followers: [],
  });
}
