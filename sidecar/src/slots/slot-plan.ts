/** What a node has to do so that PostgreSQL copies the leader's failover slots to it. Pure. */

export type Slot = {
  readonly name: string;
  readonly kind: "logical" | "physical";
  /** Its owner wants to find it on the next leader, too. */
  readonly failover: boolean;
  /** PostgreSQL's own copy of the leader's. */
  readonly synced: boolean;
  readonly active: boolean;
};

/**
 * PostgreSQL copies slots only from a server that has the physical slot that the copier names. Nobody streams through
 * it, and it reserves no WAL, so it holds nothing back.
 */
export const copierSlot = "quorate_slotsync";

type SlotPlan = {
  readonly createCopierSlot: boolean;
  /** Failover slots that this node made while it led: where the leader has one of that name, PostgreSQL's copier stops. */
  readonly blocking: readonly string[];
};

export function planSlots(own: readonly Slot[]): SlotPlan {
  return {
    createCopierSlot: !own.some(({ name, kind }) => kind === "physical" && name === copierSlot),
    blocking: own
      .filter(({ kind, failover, synced, active }) => kind === "logical" && failover && !synced && !active)
      .map(({ name }) => name),
  };
}

/** A slot of which the leader knows nothing may be the only one left of its name: it stays. */
export function slotsToDrop(blocking: readonly string[], ofLeader: ReadonlySet<string>): string[] {
  return blocking.filter((name) => ofLeader.has(name));
}
