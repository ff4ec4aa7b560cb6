/** The leader as the sidecars' status streams tell it; streams that end are opened again, with a pause in between. */
import { connectSidecar, type SidecarClient } from "@quorate/proto";
import type { LeaderSource, View } from "./leader-source.ts";
import { emptyTable, sameView, statusSeen, streamLost, viewOf } from "./leader-table.ts";

export type SidecarAddress = { readonly host: string; readonly grpcPort: number };

const intervalMs = 500;
const silenceMs = 3_000;
const pauseMs = 200;

export class SidecarWatch implements LeaderSource {
  view: View = { leader: undefined, holding: false, followers: [] };
  #table = emptyTable;
  readonly #listeners = new Set<(view: View) => void>();
  readonly #sidecars: SidecarClient[];
  readonly #over = new AbortController();
  readonly #watcher: string;

  constructor(addresses: readonly SidecarAddress[], watcher: string) {
    this.#watcher = watcher;
    this.#sidecars = addresses.map(({ host, grpcPort }) => connectSidecar(`${host}:${grpcPort}`));
    for (const sidecar of this.#sidecars) this.#watch(sidecar);
  }

  #watch(sidecar: SidecarClient): void {
    if (this.#over.signal.aborted) return;
    let node: string | undefined;
    sidecar.watch(
      { watcher: this.#watcher, intervalMs, silenceMs, signal: this.#over.signal },
      {
        status: (status) => {
          node = status.node;
          this.#change(statusSeen(this.#table, status));
        },
        end: () => {
          if (node !== undefined) this.#change(streamLost(this.#table, node));
          setTimeout(() => this.#watch(sidecar), pauseMs).unref();
        },
      },
    );
  }

  #change(table: typeof emptyTable): void {
    this.#table = table;
    const view = viewOf(table);
    if (sameView(view, this.view)) {
      this.view = view;
      return;
    }
    this.view = view;
    for (const each of this.#listeners) each(view);
  }

  subscribe(changed: (view: View) => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  close(): void {
    this.#over.abort();
    this.#listeners.clear();
    for (const sidecar of this.#sidecars) sidecar.close();
  }
}
