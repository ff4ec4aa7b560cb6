// What a machine's sidecar says of itself.

import { type NodeId, type NodeView, noTerm, type Term } from "@quorate/consensus";
import { lastLsn } from "./log.ts";
import type { Postgres } from "./postgres.ts";
import type { Disk } from "./postgres-types.ts";

export interface Status {
  readonly view: NodeView;
  readonly flushedLsn: number;
  readonly seq: number;
}

export interface MachineFacts {
  readonly postgres: Postgres | null;
  /** Its control socket answers this sidecar. */
  readonly attached: boolean;
  readonly disk: Disk | null;
  readonly incarnation: string | null;
  readonly promisedTerm: Term;
  readonly operatorStopped: boolean;
  readonly cloning: boolean;
  /** Led this term and has followed nobody since; 0: none. */
  readonly ledTerm: Term;
}

export function statusOf(facts: MachineFacts): Omit<Status, "seq"> {
  const { postgres, disk, ledTerm, promisedTerm, operatorStopped } = facts;
  const common = { promisedTerm, operatorStopped, incarnation: disk === null ? null : facts.incarnation };
  if (postgres === null || !facts.attached) {
    const noData = facts.cloning ? "cloning" : "absent";
    const down = disk === null ? noData : operatorStopped ? "stopped" : "crashed";
    return {
      flushedLsn: disk === null ? 0 : lastLsn(disk.records),
      view: {
        ...common,
        postgres: postgres === null ? down : "starting",
        state: "",
        term: ledTerm,
        inRecovery: true,
        leader: null as NodeId | null,
        receiver: null,
        followers: [],
        ruleset: null,
        flushedLsn: null,
        wasLeader: ledTerm > noTerm,
      },
    };
  }
  const view = postgres.view();
  const wasLeader = postgres.leading === null && ledTerm > noTerm;
  return {
    flushedLsn: Number(view.flushedLsn),
    view: {
      ...view,
      ...common,
      postgres: postgres.state === "starting" ? "starting" : "running",
      term: wasLeader ? ledTerm : view.term,
      wasLeader,
    },
  };
}
