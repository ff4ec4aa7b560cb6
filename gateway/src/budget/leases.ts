/**
 * A gateway's leases of server connections, one with each sidecar: asked for, renewed before they expire, and asked for
 * again at once when clients wait. What comes of them is written to the memory that the workers share.
 */
import type { Logger } from "@quorate/common";
import type { SidecarClient } from "@quorate/proto";
import { type NodeLimits, sharedClockMs } from "./node-limits.ts";

export type LeasesOptions = {
  /** One run of one gateway. */
  readonly holder: string;
  readonly limits: NodeLimits;
  /** The sidecars that answer, by their nodes. */
  readonly sidecars: () => ReadonlyMap<string, SidecarClient>;
  /** Limits have changed: there may be room for those who wait, or too much is open. */
  readonly changed: () => void;
  readonly log: Logger;
};

const tickMs = 100;
const renewMs = 1_000;
/** When clients wait, or when something has to be given back. */
const hurryMs = 100;
const answerMs = 1_500;

type Lease = {
  share: number;
  expiresAtMs: number;
  askedAtMs: number;
  asking: boolean;
  told: boolean;
};

/** Some more than is in use, so that the next client needn't wait for an answer. Pure. */
export const wishFor = (used: number): number => used + Math.max(2, Math.ceil(used / 4));

/** Whether it is time to ask. Pure. */
export function isDue(
  lease: Pick<Lease, "askedAtMs" | "asking">,
  use: { readonly wants: number; readonly open: number; readonly limit: number },
  nowMs: number,
): boolean {
  if (lease.asking) return false;
  const sinceMs = nowMs - lease.askedAtMs;
  const hurries = use.wants > use.limit || use.open > use.limit;
  return sinceMs >= (hurries ? hurryMs : renewMs);
}

export class Leases {
  readonly #options: LeasesOptions;
  readonly #leases = new Map<string, Lease>();
  readonly #ticker: NodeJS.Timeout;

  constructor(options: LeasesOptions) {
    this.#options = options;
    this.#ticker = setInterval(() => this.#tick(), tickMs).unref();
  }

  #tick(): void {
    const { limits, sidecars, changed } = this.#options;
    const nowMs = sharedClockMs();
    for (const [node, client] of sidecars()) {
      const lease = this.#leaseOf(node);
      if (lease.share > 0 && lease.expiresAtMs <= nowMs) {
        lease.share = 0;
        changed();
      }
      const use = { wants: limits.wants(node), open: limits.open(node), limit: limits.limit(node) };
      if (isDue(lease, use, nowMs)) void this.#ask(node, client, lease);
    }
  }

  /** A client waits, and the limit is reached. */
  wantMore(node: string): void {
    const client = this.#options.sidecars().get(node);
    const lease = this.#leaseOf(node);
    if (client !== undefined && !lease.asking && sharedClockMs() - lease.askedAtMs >= hurryMs / 4)
      void this.#ask(node, client, lease);
  }

  #leaseOf(node: string): Lease {
    let lease = this.#leases.get(node);
    if (lease === undefined) {
      lease = {
        share: 0,
        expiresAtMs: Number.NEGATIVE_INFINITY,
        askedAtMs: Number.NEGATIVE_INFINITY,
        asking: false,
        told: false,
      };
      this.#leases.set(node, lease);
    }
    return lease;
  }

  async #ask(node: string, client: SidecarClient, lease: Lease): Promise<void> {
    const { holder, limits, changed, log } = this.#options;
    lease.asking = true;
    const askedAtMs = sharedClockMs();
    lease.askedAtMs = askedAtMs;
    const wants = wishFor(limits.wants(node));
    const obeys = lease.expiresAtMs > askedAtMs ? lease.share : 0;
    try {
      const reply = await client.leaseConnections(
        { holder, obeys, open: limits.open(node), wants, ends: false },
        { deadlineMs: answerMs },
      );
      if (!reply.ok) throw new Error(reply.refusal.message);
      const before = `${limits.limit(node)} ${limits.capped(node)}`;
      lease.share = reply.share;
      lease.expiresAtMs = askedAtMs + reply.expiresMs; // the sidecar counts from later on
      limits.setShare(node, reply.share, reply.share < wants, lease.expiresAtMs);
      // Also when there is no more: then somebody else's idle connection makes room.
      if (`${limits.limit(node)} ${limits.capped(node)}` !== before) changed();
      if (lease.told) log.info({ node, share: reply.share }, "the sidecar leases connections again");
      lease.told = false;
    } catch (error) {
      if (!lease.told)
        log.warn({ node, error }, "the sidecar leases no connections: the lease that there is runs out");
      lease.told = true;
    } finally {
      lease.asking = false;
    }
  }

  /** All connections are closed: others may have them. */
  async close(): Promise<void> {
    clearInterval(this.#ticker);
    const { holder, sidecars } = this.#options;
    const goodbye = { holder, obeys: 0, open: 0, wants: 0, ends: true };
    await Promise.allSettled(
      [...sidecars().values()].map((client) => client.leaseConnections(goodbye, { deadlineMs: 500 })),
    );
  }
}
