/** The core's commands on the control socket, and the answers in the core's words. */
import { assertNever } from "@quorate/common";
import {
  type ControlCommand as CoreCommand,
  type ControlResult as CoreResult,
  formatLsn,
  type Lsn,
  leaseLeftMs,
  noLsn,
  type Position,
} from "@quorate/consensus";
import type { ControlConnection, ControlResult, RequestLimits } from "./control-client.ts";
import {
  type ControlStatus,
  fenceResultSchema,
  lsnResultSchema,
  positionResultSchema,
  statusResultSchema,
  unknownAgeMs,
} from "./control-protocol.ts";

export type CommandOutcome = { readonly result: CoreResult; readonly status?: ControlStatus };

/** `conninfo` says how to reach the node that the command names. */
export async function sendCommand(
  connection: ControlConnection,
  command: CoreCommand,
  conninfo: (member: boolean) => string,
  limits: RequestLimits,
): Promise<CommandOutcome> {
  switch (command.cmd) {
    case "fence": {
      const answer = await connection.request(command, fenceResultSchema, limits);
      if (!answer.ok) return { result: answer };
      const { position, commitLsn, ruleset, tailRulesets, status } = answer.value;
      if (position === null) return { result: unknownEnd, status };
      const { inRecovery } = status;
      const heard = status.receiver?.lastMessageAgeMs ?? unknownAgeMs;
      const leaseMs = leaseLeftMs(status.leaseMs, heard === unknownAgeMs ? null : heard);
      const report = {
        position,
        commitLsn: commitLsn ?? noLsn,
        ruleset,
        tailRulesets,
        inRecovery,
        leaseMs,
        upMs: status.consistent ? Math.min(status.upMs, unknownAgeMs) : 0,
      };
      return { result: { ok: true, report }, status };
    }
    case "follow": {
      const { member, ...rest } = command;
      const wire = { ...rest, conninfo: conninfo(member) };
      const answer = await connection.request(wire, statusResultSchema, limits);
      return answer.ok ? { result: { ok: true }, status: answer.value.status } : { result: answer };
    }
    case "fetch": {
      const target = { term: command.target.term, lsn: formatLsn(command.target.lsn) };
      const wire = { ...command, target, conninfo: conninfo(true) };
      return positionOutcome(await connection.request(wire, positionResultSchema, limits));
    }
    case "elect":
      return positionOutcome(await connection.request(command, positionResultSchema, limits));
    case "ruleset": {
      const { term, rule, ruleset } = command;
      const { version, text } = ruleset;
      const wire = {
        cmd: "ruleset",
        term,
        rule,
        version,
        text,
        timeoutMs: positive(command.timeoutMs),
      } as const;
      return lsnOutcome(await connection.request(wire, lsnResultSchema, limits));
    }
    case "quiesce":
      return lsnOutcome(
        await connection.request(
          { ...command, timeoutMs: positive(command.timeoutMs) },
          lsnResultSchema,
          limits,
        ),
      );
    default:
      return assertNever(command);
  }
}

const unknownEnd: CoreResult = {
  ok: false,
  code: "not_consistent",
  message: "recovery doesn't know yet where the log ends",
};

/** The extension refuses a timeout of zero. */
function positive(timeoutMs: number): number {
  return Math.max(timeoutMs, 1);
}

function positionOutcome(answer: ControlResult<{ readonly position: Position }>): CommandOutcome {
  return { result: answer.ok ? { ok: true, position: answer.value.position } : answer };
}

function lsnOutcome(answer: ControlResult<{ readonly lsn: Lsn | null }>): CommandOutcome {
  if (!answer.ok) return { result: answer };
  return { result: answer.value.lsn === null ? { ok: true } : { ok: true, lsn: answer.value.lsn } };
}
