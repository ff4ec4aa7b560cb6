// Pure: what a switchover or a failover would do, for --dry-run.
import type { NodeId } from "@quorate/consensus";
import type { Term } from "@quorate/consensus/types.ts";

export interface LeaderPlanInput {
  readonly verb: "switchover" | "failover";
  /** Who leads now; null: nobody. */
  readonly leader: { readonly id: NodeId; readonly term: Term } | null;
  readonly to: NodeId;
  /** In reach, without the next leader. */
  readonly others: readonly NodeId[];
  /** Of the present leader's log. */
  readonly lacksBytes: bigint;
}

export interface PlannedStep {
  readonly kind: "quiesce" | "catchUp" | "recruit" | "elect" | "follow";
  readonly what: string;
}

export function leaderPlan({ verb, leader, to, others, lacksBytes }: LeaderPlanInput): PlannedStep[] {
  const log =
    lacksBytes > 0n ? `${to} gets the rest of the log, ${lacksBytes} bytes now` : `${to} has the whole log`;
  const inOrder: PlannedStep[] =
    verb === "failover" || leader === null
      ? []
      : [
          { kind: "quiesce", what: `${leader.id} holds new transactions and finishes those in flight` },
          { kind: "catchUp", what: log },
        ];
  const recruits = [to, ...others].join(", ");
  const term = leader === null ? "the next term" : `a term above ${leader.term}`;
  const ex = leader !== null && others.includes(leader.id) ? `; ${leader.id} restarts as a follower` : "";
  return [
    ...inOrder,
    { kind: "recruit", what: `${recruits} promise ${term} and leave older ones` },
    { kind: "elect", what: `${to} begins ${term} and leads as soon as its quorum has it` },
    ...(others.length === 0
      ? []
      : [{ kind: "follow" as const, what: `${others.join(", ")} follow ${to}${ex}` }]),
  ];
}
