/** The leader as the sidecars' status streams tell it; streams that end are opened again, with a pause in between. */
import { connectSidecar, type SidecarClient } from "@quorate/proto";
import type { LeaderSource, View } from "./leader-source.ts";
import { emptyTable, nodeForgotten, sameView, statusSeen, streamLost, viewOf } from "./leader-table.ts";

export type SidecarAddress = { readonly host: string; readonly grpcPort: number };

const intervalMs = 500;
const silenceMs = 3_000;
const pauseMs = 200;
/** Listeners hear of mere progress this often. */
const positionsMs = 1_000;

type Watched = { readonly client: SidecarClient; readonly over: AbortController; node?: string };

export class SidecarWatch implements LeaderSource {
  view: View = { leader: undefined, holding: false, followers: [] };
  #table = emptyTable;
  readonly #listeners = new Set<(view: View) => void>();
  readonly #watched = new Map<string, Watched>();
  readonly #watcher: string;
  #toldAtMs = 0;

  constructor(addresses: readonly SidecarAddress[], watcher: string) {
    this.#watcher = watcher;
    this.follow(addresses);
  }

  /** Nodes have been added or removed. */
  follow(addresses: readonly SidecarAddress[]): void {
    const wanted = new Set(addresses.map(({ host, grpcPort }) => `${host}:${grpcPort}`));
    for (const [address, watched] of this.#watched) {
      if (wanted.has(address)) continue;
      this.#watched.delete(address);
      watched.over.abort();
      watched.client.close();
      if (watched.node !== undefined) this.#change(nodeForgotten(this.#table, watched.node));
    }
    for (const address of wanted) {
      if (this.#watched.has(address)) continue;
      const watched: Watched = { client: connectSidecar(address), over: new AbortController() };
      this.#watched.set(address, watched);
      this.#watch(watched);
    }
  }

  #watch(watched: Watched): void {
    const { signal } = watched.over;
    if (signal.aborted) return;
    watched.client.watch(
      { watcher: this.#watcher, intervalMs, silenceMs, signal },
      {
        status: (status) => {
          watched.node = status.node;
          this.#change(statusSeen(this.#table, status, performance.now()));
        },
        end: () => {
          if (signal.aborted) return;
          if (watched.node !== undefined) this.#change(streamLost(this.#table, watched.node));
          setTimeout(() => this.#watch(watched), pauseMs).unref();
        },
      },
    );
  }

  #change(table: typeof emptyTable): void {
    this.#table = table;
    const view = viewOf(table);
    const same = sameView(view, this.view);
    this.view = view;
    const nowMs = performance.now();
    if (same && nowMs - this.#toldAtMs < positionsMs) return;
    this.#toldAtMs = nowMs;
    for (const each of this.#listeners) each(view);
  }

  sidecars(): ReadonlyMap<string, SidecarClient> {
    const known = new Map<string, SidecarClient>();
    for (const { node, client } of this.#watched.values()) if (node !== undefined) known.set(node, client);
    return known;
  }

  subscribe(changed: (view: View) => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  close(): void {
    this.#listeners.clear();
    for (const { client, over } of this.#watched.values()) {
      over.abort();
      client.close();
    }
    this.#watched.clear();
  }
}
