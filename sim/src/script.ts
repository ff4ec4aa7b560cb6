// A run is a world and a script: what faults and operators do, and when. Everything is made from the seed before
// the run begins, so that a failing script can be cut down.

import type { CohortNode, NodeId } from "@quorate/consensus";

export type Action =
  | { readonly kind: "killPostgres"; readonly node: NodeId }
  | { readonly kind: "killSidecar"; readonly node: NodeId; readonly downMs: number }
  | { readonly kind: "killBoth"; readonly node: NodeId; readonly downMs: number }
  | { readonly kind: "powerCut"; readonly nodes: readonly NodeId[]; readonly downMs: number }
  | { readonly kind: "freezePostgres"; readonly node: NodeId; readonly ms: number }
  | { readonly kind: "freezeSidecar"; readonly node: NodeId; readonly ms: number }
  | { readonly kind: "freezeOrchestrator"; readonly at: number; readonly ms: number }
  | { readonly kind: "killOrchestrator"; readonly at: number; readonly downMs: number }
  | { readonly kind: "cut"; readonly pairs: readonly (readonly [string, string])[]; readonly ms: number }
  | { readonly kind: "slow"; readonly delayMs: number; readonly stallMs: number; readonly ms: number }
  /** Whoever leads then, alone or with some others; perhaps its wall clock is set back. Orchestrators are outside. */
  | {
      readonly kind: "isolateLeader";
      readonly together: readonly NodeId[];
      readonly jumpMs: number;
      /** Its sidecar has just been restarted and has not reached it yet. */
      readonly adopted: boolean;
      readonly ms: number;
    }
  /** One direction of one connection only. */
  | {
      readonly kind: "slowEdge";
      readonly from: string;
      readonly to: string;
      readonly extraMs: number;
      readonly ms: number;
    }
  | { readonly kind: "slowDisk"; readonly node: NodeId; readonly factor: number; readonly ms: number }
  | { readonly kind: "loseDisk"; readonly node: NodeId; readonly downMs: number }
  /** The wall clock of a machine or an orchestrator jumps. */
  | { readonly kind: "clockJump"; readonly name: string; readonly ms: number }
  | { readonly kind: "switchover"; readonly at: number; readonly to: NodeId }
  | {
      readonly kind: "change";
      readonly at: number;
      readonly candidate: NodeId | null;
      readonly lease: boolean;
    }
  | {
      readonly kind: "rules";
      readonly at: number;
      readonly policy: number;
      readonly without: readonly NodeId[];
      readonly byCoordinator: boolean;
    }
  /** An operator's wish: this policy on these nodes; the others stop (`leave`) or go on as observers. */
  | {
      readonly kind: "cohort";
      readonly at: number;
      readonly policy: number;
      readonly members: readonly NodeId[];
      readonly leave: boolean;
      readonly forMs: number;
    }
  /** Whoever leads is asked at once: an operator without an orchestrator. */
  | { readonly kind: "rulesNow"; readonly policy: number; readonly without: readonly NodeId[] };

export interface Step {
  readonly atMs: number;
  readonly action: Action;
}

export interface WorldPlan {
  readonly seed: number;
  readonly nodes: readonly CohortNode[];
  /** Nodes that have data and are in the cohort from the start; the others are empty. */
  readonly founders: readonly NodeId[];
  readonly policy: number;
  readonly orchestrators: number;
  readonly automatic: boolean;
  readonly pace: "calm" | "hasty" | "patient";
  /** Local milliseconds per millisecond of the world, where it is not 1. */
  readonly clockRates: Readonly<Record<string, number>>;
  readonly heartbeatMs: number;
  /** 0: no leader answers reads by itself. */
  readonly leaseMs: number;
  readonly clients: number;
  /** Longest pause of a client between two requests, and the share of reads. */
  readonly thinkMs: number;
  readonly reads: number;
  readonly safetyMs: number;
  readonly loss: number;
  readonly duplicate: number;
  readonly stall: number;
  readonly stallMs: number;
  readonly steps: readonly Step[];
}

export function orchestratorNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `o${index + 1}`);
}
