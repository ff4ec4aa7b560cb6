// Watches every node of the cohort through its sidecar's status stream. A stream's end is an event (the sidecar died,
// or became unreachable); it is reopened at once, then with growing pauses. Decides nothing.
import { connectSidecar, type NodeStatus, type SidecarClient, type WatchEnd } from "@quorate/proto";

/** What is known of one address. `status` is the last one heard, however old. */
export interface WatchedNode {
  readonly address: string;
  readonly reachable: boolean;
  /** On the watcher's clock: when `reachable` last changed. */
  readonly sinceMs: number;
  /** When the last message came; undefined when none ever did. */
  readonly heardAtMs: number | undefined;
  readonly status: NodeStatus | undefined;
  readonly lastEnd: WatchEnd | undefined;
}

export type CohortEvent =
  | { readonly kind: "status"; readonly view: WatchedNode; readonly previous: NodeStatus | undefined }
  | { readonly kind: "unreachable"; readonly view: WatchedNode; readonly end: WatchEnd };

export interface WatcherOptions {
  readonly watcher: string;
  readonly nowMs: () => number;
  readonly onEvent: (event: CohortEvent) => void;
  readonly intervalMs?: number;
  readonly silenceMs?: number;
  readonly connect?: (address: string) => SidecarClient;
}

const defaultIntervalMs = 300;
const defaultSilenceMs = 1_000;
const maxReopenPauseMs = 500;

/** Pure: the pause before attempt number `failures` + 1. The first is immediate: a supervisor restarts at once. */
export function reopenPauseMs(failures: number): number {
  return failures === 0 ? 0 : Math.min(maxReopenPauseMs, 10 * 2 ** Math.min(failures, 10));
}

interface Entry {
  readonly address: string;
  readonly expected: string | undefined;
  readonly client: SidecarClient;
  view: WatchedNode;
  failures: number;
  timer: NodeJS.Timeout | undefined;
  cancel: (() => void) | undefined;
}

export class CohortWatcher {
  readonly #options: WatcherOptions;
  readonly #entries = new Map<string, Entry>();
  #closed = false;

  constructor(options: WatcherOptions) {
    this.#options = options;
  }

  /** Start to watch an address; does nothing if it is watched already. `expected` names the node before it is heard. */
  add(address: string, expected?: string): void {
    if (this.#closed || this.#entries.has(address)) return;
    const client = (this.#options.connect ?? connectSidecar)(address);
    const view: WatchedNode = {
      address,
      reachable: false,
      sinceMs: this.#options.nowMs(),
      heardAtMs: undefined,
      status: undefined,
      lastEnd: undefined,
    };
    const entry: Entry = {
      address,
      expected,
      client,
      view,
      failures: 0,
      timer: undefined,
      cancel: undefined,
    };
    this.#entries.set(address, entry);
    this.#open(entry);
  }

  views(): WatchedNode[] {
    return [...this.#entries.values()].map(({ view }) => view);
  }

  /** The connection to a node by its id, once it has been heard of. */
  client(nodeId: string): SidecarClient | undefined {
    return this.#find(nodeId)?.client;
  }

  view(nodeId: string): WatchedNode | undefined {
    return this.#find(nodeId)?.view;
  }

  close(): void {
    this.#closed = true;
    for (const entry of this.#entries.values()) {
      clearTimeout(entry.timer);
      entry.cancel?.();
      entry.client.close();
    }
  }

  #find(nodeId: string): Entry | undefined {
    let found: Entry | undefined;
    for (const entry of this.#entries.values()) {
      const id = entry.view.status?.node ?? entry.expected;
      if (id === nodeId && (found === undefined || entry.view.reachable)) found = entry;
    }
    return found;
  }

  #open(entry: Entry): void {
    const { watcher, intervalMs = defaultIntervalMs, silenceMs = defaultSilenceMs } = this.#options;
    entry.cancel = entry.client.watch(
      { watcher, intervalMs, silenceMs },
      { status: (status) => this.#heard(entry, status), end: (end) => this.#ended(entry, end) },
    );
  }

  #heard(entry: Entry, status: NodeStatus): void {
    const nowMs = this.#options.nowMs();
    const previous = entry.view.status;
    const { reachable, sinceMs } = entry.view;
    entry.failures = 0;
    entry.view = {
      ...entry.view,
      reachable: true,
      sinceMs: reachable ? sinceMs : nowMs,
      heardAtMs: nowMs,
      status,
    };
    this.#options.onEvent({ kind: "status", view: entry.view, previous });
  }

  #ended(entry: Entry, end: WatchEnd): void {
    if (this.#closed) return;
    const { reachable, sinceMs } = entry.view;
    const pauseMs = reopenPauseMs(entry.failures);
    entry.failures += 1;
    entry.view = {
      ...entry.view,
      reachable: false,
      sinceMs: reachable ? this.#options.nowMs() : sinceMs,
      lastEnd: end,
    };
    entry.timer = setTimeout(() => this.#open(entry), pauseMs);
    if (reachable || entry.failures === 1) {
      this.#options.onEvent({ kind: "unreachable", view: entry.view, end });
    }
  }
}
