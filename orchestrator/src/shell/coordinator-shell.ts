// The thin shell around the coordinator's step machine: performs its calls over gRPC, starts its timers, hands every
// answer back. Decides nothing. Used by the orchestrators and, in-process, by the CLI.
import { assertNever, type Logger, messageOf } from "@quorate/common";
import {
  type Call,
  type CallResult,
  type ChangeRequest,
  type CoordinatorEffect,
  type CoordinatorEvent,
  type CoordinatorId,
  type CoordinatorOptions,
  type CoordinatorState,
  initialCoordinator,
  type NodeId,
  noLsn,
  type Outcome,
  parseRuleset,
  type RecordedRuleset,
  type Report,
  reportFrom,
  stepCoordinator,
  type Term,
} from "@quorate/consensus";
import type { NodeStatus, Recruited, Refusal, Reply, RulesetText, SidecarClient } from "@quorate/proto";

/** How the shell reaches nodes; the cohort watcher is one. */
export interface NodeDirectory {
  client(node: NodeId): SidecarClient | undefined;
  /** Where a node's Postgres listens. */
  endpoint(node: NodeId): { readonly host: string; readonly port: number } | undefined;
}

/** One finished call, for metrics and the log. */
export interface CallRecord {
  readonly call: Call;
  readonly result: CallResult;
  readonly durationMs: number;
}

export interface CoordinatorShellOptions {
  readonly id: CoordinatorId;
  readonly directory: NodeDirectory;
  readonly log: Logger;
  readonly nowMs: () => number;
  readonly options?: CoordinatorOptions;
  readonly onCall?: (record: CallRecord) => void;
  readonly onNote?: (text: string) => void;
}

export class CoordinatorShell {
  readonly #shell: CoordinatorShellOptions;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  #state: CoordinatorState;
  #beganAtMs = 0;
  #finish: ((outcome: Outcome) => void) | undefined;
  #abort = new AbortController();

  constructor(shell: CoordinatorShellOptions) {
    this.#shell = shell;
    this.#state = initialCoordinator(shell.id, shell.options);
  }

  get busy(): boolean {
    return this.#state.attempt !== null;
  }

  /** The term of the attempt under way. */
  get term(): Term | undefined {
    return this.#state.attempt?.term;
  }

  /** One attempt, one term. */
  change(request: ChangeRequest): Promise<Outcome> {
    if (this.busy) throw new Error("a leader change is under way already");
    this.#beganAtMs = this.#shell.nowMs();
    this.#abort = new AbortController();
    return new Promise((resolve) => {
      this.#finish = resolve;
      this.#dispatch({ kind: "begin", request });
    });
  }

  abandon(reason: string): void {
    this.#dispatch({ kind: "abandon", reason });
  }

  /** Every status that the watcher hears. */
  heard(status: NodeStatus): void {
    this.#dispatch({
      kind: "status",
      node: status.node,
      state: status.state ?? "",
      term: status.term,
      promisedTerm: status.promisedTerm,
      running: status.postgres === "running" || status.postgres === "starting",
    });
  }

  #dispatch(event: CoordinatorEvent): void {
    const { state, effects } = stepCoordinator(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#perform(effect);
  }

  #perform(effect: CoordinatorEffect): void {
    switch (effect.kind) {
      case "call":
        void this.#call(effect.call);
        return;
      case "timer":
        this.#timers.set(
          effect.timerId,
          setTimeout(() => this.#dispatch({ kind: "timer", timerId: effect.timerId }), effect.afterMs),
        );
        return;
      case "note":
        this.#note(effect.text);
        return;
      case "finished":
        this.#finished(effect.outcome);
        return;
      default:
        assertNever(effect, "effect");
    }
  }

  #note(text: string): void {
    const term = this.#state.attempt?.term;
    this.#shell.log.info({ ...(term === undefined ? {} : { term }), atMs: this.#sinceBeginMs() }, text);
    this.#shell.onNote?.(text);
  }

  #finished(outcome: Outcome): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    // Followers that are being pointed at an established leader go on; of a failed attempt nothing does.
    if (outcome.kind === "failed") this.#abort.abort();
    const finish = this.#finish;
    this.#finish = undefined;
    finish?.(outcome);
  }

  async #call(call: Call): Promise<void> {
    const startedMs = this.#shell.nowMs();
    const result = await this.#performCall(call).catch(
      (error: unknown): CallResult => ({ kind: "unreachable", message: messageOf(error) }),
    );
    const durationMs = Math.round(this.#shell.nowMs() - startedMs);
    this.#logCall(call, result, durationMs);
    this.#shell.onCall?.({ call, result, durationMs });
    this.#dispatch({ kind: "reply", callId: call.id, result });
  }

  #logCall(call: Call, result: CallResult, durationMs: number): void {
    const { method, node, term } = call;
    const fields = { term, durationMs, atMs: this.#sinceBeginMs() };
    switch (result.kind) {
      case "refused":
        this.#shell.log.info({ ...fields, code: result.refusal.code }, `${method} ${node}: refused`);
        return;
      case "unreachable":
        this.#shell.log.info({ ...fields, why: result.message }, `${method} ${node}: unreachable`);
        return;
      default:
        this.#shell.log.info(fields, `${method} ${node}: done`);
    }
  }

  #sinceBeginMs(): number {
    return Math.round(this.#shell.nowMs() - this.#beganAtMs);
  }

  async #performCall(call: Call): Promise<CallResult> {
    const client = this.#shell.directory.client(call.node);
    if (client === undefined) return unreachable(`the address of ${call.node} isn't known`);
    const limits = { deadlineMs: call.timeoutMs, signal: this.#abort.signal };
    const { term, coordinator } = call;
    switch (call.method) {
      case "recruit":
        return asResult(
          await client.recruit({ term, coordinator, reason: call.reason }, limits),
          (reply) => ({
            kind: "recruited",
            report: reportOf(call.node, reply),
          }),
        );
      case "fetch": {
        const from = this.#shell.directory.endpoint(call.from);
        if (from === undefined) return unreachable(`the address of ${call.from} isn't known`);
        const request = {
          ...from,
          term,
          coordinator,
          from: call.from,
          target: call.target,
          timeoutMs: call.timeoutMs,
        };
        return asResult(await client.fetch(request, limits), ({ position }) => ({
          kind: "fetched",
          position,
        }));
      }
      case "elect": {
        const { rule, joint, ruleset } = call;
        const reply = await client.elect({ term, coordinator, rule, joint, ruleset }, limits);
        return asResult(reply, ({ position }) => ({ kind: "elected", position }));
      }
      case "follow": {
        const leader = this.#shell.directory.endpoint(call.leader);
        if (leader === undefined) return unreachable(`the address of ${call.leader} isn't known`);
        const { member, counts } = call;
        const named = counts === undefined ? {} : { counts };
        const request = { ...leader, term, coordinator, leader: call.leader, member, ...named };
        return asResult(await client.follow(request, limits), () => ({ kind: "following" }));
      }
      default:
        return assertNever(call, "call");
    }
  }
}

function unreachable(message: string): CallResult {
  return { kind: "unreachable", message };
}

function asResult<T>(reply: Reply<T>, accepted: (reply: T) => CallResult): CallResult {
  return reply.ok ? accepted(reply) : { kind: "refused", refusal: refusalOf(reply.refusal) };
}

function refusalOf({ code, message, promisedTerm }: Refusal): {
  code: string;
  message: string;
  promisedTerm: Term;
} {
  return { code, message, promisedTerm };
}

/** A ruleset that can't be read must not be taken for none: it could name nodes that would have to be asked. */
export function readRuleset({ version, text, recordedAt }: RulesetText): RecordedRuleset {
  const parsed = parseRuleset(text);
  if (parsed.ok) return recordedAt === undefined ? parsed.ruleset : { ...parsed.ruleset, recordedAt };
  throw new Error(
    `ruleset ${version} can't be read: ${parsed.refusals.map((each) => each.message).join("; ")}`,
  );
}

export function reportOf(node: NodeId, { commitLsn, incarnation, ...reply }: Recruited): Report {
  const fence = { ...reply, commitLsn: commitLsn ?? noLsn };
  return reportFrom(node, incarnation === null ? fence : { ...fence, incarnation }, readRuleset);
}
