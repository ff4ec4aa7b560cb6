// One leader change, from the term number to a leader that admits writes, as a step machine. An attempt is one
// term: when it fails nothing is lost, and the next attempt takes a higher term. The shell performs the effects,
// and hands every answer back with the id of the call that it answers.

import {
  type Attempt,
  type Call,
  type CallBase,
  type CallMethod,
  type CallResult,
  type ChangeRequest,
  type CoordinatorEffect,
  type CoordinatorEvent,
  type CoordinatorOptions,
  type CoordinatorState,
  type CoordinatorStep,
  defaultCoordinatorOptions,
  type Plan,
  type TimerName,
} from "./coordinator-types.ts";
import { backoffMs, describe, recruitTimeoutMs } from "./coordinator-words.ts";
import { leaseWaitMs } from "./lease.ts";
import { explainShortage, furtherNodes, judge, type Shortage, type Verdict } from "./recruitment.ts";
import { formatRule } from "./rule.ts";
import { allNodes, formatRuleset, memberOf } from "./ruleset.ts";
import {
  assert,
  assertNever,
  type CoordinatorId,
  comparePositions,
  maxTerm,
  type NodeId,
  noTerm,
  type Term,
  term,
} from "./types.ts";

export function initialCoordinator(
  id: CoordinatorId,
  options: CoordinatorOptions = defaultCoordinatorOptions,
): CoordinatorState {
  return { id, options, highestTerm: noTerm, failedAttempts: 0, attempt: null };
}

/** The one place where late, repeated and superseded answers are dropped. */
export function isStale(state: CoordinatorState, event: CoordinatorEvent): boolean {
  const { attempt } = state;
  switch (event.kind) {
    case "begin":
      return attempt !== null;
    case "reply":
      return attempt === null || !attempt.pendingCalls.has(event.callId);
    case "timer":
      return attempt === null || !attempt.pendingTimers.has(event.timerId);
    case "status":
      return (
        attempt === null ||
        attempt.phase.kind !== "establishing" ||
        attempt.phase.plan.candidate !== event.node
      );
    case "abandon":
      return attempt === null;
    default:
      return assertNever(event);
  }
}

export function stepCoordinator(state: CoordinatorState, event: CoordinatorEvent): CoordinatorStep {
  if (isStale(state, event)) {
    return { state, effects: [] };
  }
  const work = new Work(state);
  switch (event.kind) {
    case "begin":
      begin(work, event.request);
      break;
    case "reply":
      onReply(work, event.callId, event.result);
      break;
    case "timer":
      onTimer(work, event.timerId);
      break;
    case "status":
      onStatus(work, event);
      break;
    case "abandon":
      fail(work, `abandoned: ${event.reason}`, []);
      break;
    default:
      assertNever(event);
  }
  return work.done();
}

/** Collects the changes of one step; the values inside are immutable. */
class Work {
  state: CoordinatorState;
  readonly effects: CoordinatorEffect[] = [];

  constructor(state: CoordinatorState) {
    this.state = state;
  }

  get attempt(): Attempt {
    assert(this.state.attempt !== null, "an attempt is under way");
    return this.state.attempt;
  }

  change(attempt: Partial<Attempt>): void {
    this.state = { ...this.state, attempt: { ...this.attempt, ...attempt } };
  }

  call(method: CallMethod, node: NodeId, make: (base: CallBase) => Call, timeoutMs: number): void {
    const id = `${this.attempt.term}/${method}/${node}`;
    const call = make({ id, term: this.attempt.term, coordinator: this.state.id, node, timeoutMs });
    this.change({ pendingCalls: new Map(this.attempt.pendingCalls).set(id, { method, node }) });
    this.effects.push({ kind: "call", call });
  }

  timer(name: TimerName, afterMs: number): void {
    const timerId = `${this.attempt.term}/${name}`;
    this.change({ pendingTimers: new Set(this.attempt.pendingTimers).add(timerId) });
    this.effects.push({ kind: "timer", timerId, afterMs });
  }

  /** Should it go off nevertheless, it is stale. */
  cancel(name: TimerName): void {
    const pendingTimers = new Set(this.attempt.pendingTimers);
    pendingTimers.delete(`${this.attempt.term}/${name}`);
    this.change({ pendingTimers });
  }

  waitsFor(name: TimerName): boolean {
    return this.attempt.pendingTimers.has(`${this.attempt.term}/${name}`);
  }

  note(text: string): void {
    this.effects.push({ kind: "note", text });
  }

  sawTerm(seen: Term | undefined): void {
    if (seen !== undefined && seen > this.state.highestTerm) {
      this.state = { ...this.state, highestTerm: seen };
    }
  }

  done(): CoordinatorStep {
    return { state: this.state, effects: this.effects };
  }
}

function begin(work: Work, request: ChangeRequest): void {
  work.sawTerm(request.highestTerm);
  assert(work.state.highestTerm < maxTerm, "the term numbers are used up");
  const attemptTerm = term(work.state.highestTerm + 1);
  work.sawTerm(attemptTerm);
  work.state = {
    ...work.state,
    attempt: {
      term: attemptTerm,
      request,
      phase: { kind: "recruiting", graceStarted: false },
      reports: new Map(),
      asked: new Set(),
      lateRecruits: new Set(),
      failures: new Map(),
      down: new Set(),
      pendingCalls: new Map(),
      pendingTimers: new Set(),
    },
  };
  work.note(`term ${attemptTerm}: ${request.reason}`);
  const known =
    request.newRuleset === undefined ? request.rulesets : [...request.rulesets, request.newRuleset];
  recruit(work, allNodes(known));
  if (work.attempt.asked.size === 0) {
    fail(work, "no ruleset known, thus nobody to recruit", [{ kind: "no_report" }]);
    return;
  }
  work.timer("recruit", recruitTimeoutMs(work.state.failedAttempts, work.state.options));
}

function recruit(work: Work, nodes: readonly NodeId[]): void {
  const { failedAttempts, options } = work.state;
  const timeoutMs = recruitTimeoutMs(failedAttempts, options);
  for (const id of nodes) {
    work.change({ asked: new Set(work.attempt.asked).add(id) });
    const { reason } = work.attempt.request;
    work.call("recruit", id, (base) => ({ ...base, method: "recruit", reason }), timeoutMs);
  }
}

function onReply(work: Work, callId: string, result: CallResult): void {
  const pending = work.attempt.pendingCalls.get(callId);
  assert(pending !== undefined, "stale replies were dropped before");
  const pendingCalls = new Map(work.attempt.pendingCalls);
  pendingCalls.delete(callId);
  work.change({ pendingCalls });
  if (result.kind === "refused") {
    work.sawTerm(result.refusal.promisedTerm);
  }
  switch (pending.method) {
    case "recruit":
      onRecruitReply(work, pending.node, result);
      return;
    case "fetch":
      onFetchReply(work, result);
      return;
    case "elect":
      onElectReply(work, result);
      return;
    case "follow":
      if (result.kind !== "following") {
        work.note(`${pending.node} does not follow yet: ${describe(result)}`);
      }
      return;
    default:
      assertNever(pending.method);
  }
}

/** Refusals by which a sidecar says that no Postgres of its node answers anybody. */
const postgresIsDown: ReadonlySet<string> = new Set(["postgres_down", "no_data"]);

function onRecruitReply(work: Work, node: NodeId, result: CallResult): void {
  if (result.kind !== "recruited") {
    const down = new Set(work.attempt.down);
    if (result.kind === "refused" && postgresIsDown.has(result.refusal.code)) {
      down.add(node);
    }
    work.change({ failures: new Map(work.attempt.failures).set(node, describe(result)), down });
    work.note(`${node} not recruited: ${describe(result)}`);
  } else {
    assert(result.report.node === node, "a report names its node");
    if (work.attempt.phase.kind !== "recruiting") {
      // Too late to be counted; it has left the older terms, so it needs a leader.
      follow(work, node);
      endLease(work);
      return;
    }
    work.change({ reports: new Map(work.attempt.reports).set(node, result.report) });
    recruit(work, furtherNodes(work.attempt.reports, work.attempt.asked));
  }
  if (work.attempt.phase.kind === "recruiting") {
    considerRecruits(work);
  } else {
    endLease(work);
  }
}

function verdictOf(attempt: Attempt): Verdict {
  const { request, reports } = attempt;
  const wish = {
    ...(request.candidate === undefined ? {} : { only: request.candidate }),
    ...(request.preferZone === undefined ? {} : { zone: request.preferZone }),
  };
  const verdict = judge({ reports, newRuleset: request.newRuleset, wish });
  if (
    verdict.newest !== null &&
    verdict.newest.ruleset === null &&
    verdict.newest.tailRulesets.length === 0 &&
    request.bootstrap !== true
  ) {
    return { ok: false, rulesets: [], newest: verdict.newest, shortages: [{ kind: "no_ruleset" }] };
  }
  return verdict;
}

function considerRecruits(work: Work): void {
  const { attempt } = work;
  assert(attempt.phase.kind === "recruiting", "recruits are considered while recruiting");
  const missing = [...attempt.pendingCalls.values()].filter((call) => call.method === "recruit");
  const allAnswered = missing.length === 0;
  const verdict = verdictOf(attempt);
  if (verdict.ok) {
    // The others' logs are worth a short wait; the dead leader's tail isn't.
    const { leader } = attempt.request;
    const onlyTheDead = leader?.ended === true && missing.every(({ node }) => node === leader.node);
    if (onlyTheDead || allAnswered || work.state.options.graceMs === 0) {
      proceed(work);
    } else if (!attempt.phase.graceStarted) {
      work.change({ phase: { kind: "recruiting", graceStarted: true } });
      work.timer("grace", work.state.options.graceMs);
    }
  } else if (allAnswered) {
    failForShortages(work, verdict.shortages);
  }
}

/** The recruited set is fixed now; from here on only the candidate's answers matter. */
function proceed(work: Work): void {
  const { attempt } = work;
  const verdict = verdictOf(attempt);
  if (!verdict.ok) {
    failForShortages(work, verdict.shortages);
    return;
  }
  const { newest, candidate, rulesets } = verdict;
  const ruleset = rulesets.at(-1);
  assert(ruleset !== undefined, "a valid verdict names a ruleset");
  const { newRuleset } = attempt.request;
  const known = rulesets.filter((other) => other !== ruleset);
  if (newRuleset !== undefined && known.some((other) => other.version >= newRuleset.version)) {
    fail(work, `ruleset ${newRuleset.version} is not newer than every ruleset in the log`, []);
    return;
  }
  const plan: Plan = {
    candidate: candidate.node,
    newest: newest.node,
    target: newest.position,
    ruleset,
    rulesets,
    needsFetch: comparePositions(candidate.position, newest.position) < 0,
  };
  work.note(
    `term ${attempt.term}: recruited ${[...attempt.reports.keys()].join(", ")}; newest log on ${newest.node}; candidate ${candidate.node}`,
  );
  const waitMs = leaseWaitMs(plan, attempt);
  if (waitMs > 0) {
    work.note(`term ${attempt.term}: an older leader may answer reads for ${waitMs} ms more`);
    work.timer("lease", waitMs);
  }
  propagate(work, plan);
}

/** The candidate fetches what it lacks while an older leader's lease runs out. */
function propagate(work: Work, plan: Plan): void {
  if (!plan.needsFetch) {
    electAfterLease(work, plan);
    return;
  }
  work.change({ phase: { kind: "fetching", plan } });
  const make = (base: CallBase): Call => ({
    ...base,
    method: "fetch",
    from: plan.newest,
    target: plan.target,
  });
  work.call("fetch", plan.candidate, make, work.state.options.fetchTimeoutMs);
}

function onFetchReply(work: Work, result: CallResult): void {
  const { phase } = work.attempt;
  assert(phase.kind === "fetching", "a fetch is answered while fetching");
  if (result.kind !== "fetched") {
    fail(
      work,
      `${phase.plan.candidate} could not fetch the log of ${phase.plan.newest}: ${describe(result)}`,
      [],
    );
    return;
  }
  if (comparePositions(result.position, phase.plan.target) !== 0) {
    fail(
      work,
      `${phase.plan.candidate} fetched up to another position than that of ${phase.plan.newest}`,
      [],
    );
    return;
  }
  electAfterLease(work, phase.plan);
}

function electAfterLease(work: Work, plan: Plan): void {
  if (work.waitsFor("lease")) {
    work.change({ phase: { kind: "leaseWait", plan } });
  } else {
    elect(work, plan);
  }
}

/** Whoever might have held a lease has meanwhile left its term, or has no Postgres: the wait is over. */
function endLease(work: Work): void {
  const { phase } = work.attempt;
  const waits = phase.kind === "leaseWait" || phase.kind === "fetching";
  if (!waits || !work.waitsFor("lease") || leaseWaitMs(phase.plan, work.attempt) > 0) {
    return;
  }
  work.cancel("lease");
  if (phase.kind === "leaseWait") {
    elect(work, phase.plan);
  }
}

function elect(work: Work, plan: Plan): void {
  const rule = plan.ruleset.leaders.get(plan.candidate);
  assert(rule !== undefined, "the candidate may lead under the ruleset of the term");
  const ruleText = formatRule(rule);
  const joint = new Set<string>();
  for (const other of plan.rulesets) {
    const otherRule = other.leaders.get(plan.candidate);
    assert(otherRule !== undefined, "the candidate may lead under every ruleset that may count");
    joint.add(formatRule(otherRule));
  }
  joint.delete(ruleText);
  work.change({ phase: { kind: "electing", plan } });
  const make = (base: CallBase): Call => ({
    ...base,
    method: "elect",
    rule: ruleText,
    joint: [...joint],
    ruleset: { version: plan.ruleset.version, text: formatRuleset(plan.ruleset) },
  });
  work.call("elect", plan.candidate, make, work.state.options.electTimeoutMs);
}

function onElectReply(work: Work, result: CallResult): void {
  const { phase } = work.attempt;
  assert(phase.kind === "electing", "an elect is answered while electing");
  const { plan } = phase;
  if (result.kind !== "elected") {
    fail(work, `${plan.candidate} did not begin term ${work.attempt.term}: ${describe(result)}`, []);
    return;
  }
  work.change({ phase: { kind: "establishing", plan } });
  for (const id of work.attempt.reports.keys()) {
    follow(work, id);
  }
  for (const id of work.attempt.lateRecruits) {
    follow(work, id);
  }
  work.timer("establish", work.state.options.establishTimeoutMs);
}

/** Whoever can be recruited may have everything: its replay stops at the commit LSN anyway. */
function follow(work: Work, id: NodeId): void {
  const { phase } = work.attempt;
  if (phase.kind !== "establishing") {
    work.change({ lateRecruits: new Set(work.attempt.lateRecruits).add(id) });
    return;
  }
  const { plan } = phase;
  if (id === plan.candidate) {
    return;
  }
  const counts = lifeThatCounts(work.attempt, plan, id);
  const make = (base: CallBase): Call => ({
    ...base,
    method: "follow",
    leader: plan.candidate,
    member: true,
    ...(counts === undefined ? {} : { counts }),
  });
  work.call("follow", id, make, work.state.options.followTimeoutMs);
}

/** The life that reported, when every ruleset of the term that counts this node names that one. */
function lifeThatCounts({ reports }: Attempt, { ruleset, rulesets }: Plan, id: NodeId): string | undefined {
  const life = reports.get(id)?.incarnation;
  const entries = [ruleset, ...rulesets].flatMap((each) => memberOf(each, id) ?? []);
  return entries.length > 0 && entries.every(({ incarnation }) => incarnation === life) ? life : undefined;
}

function onTimer(work: Work, timerId: string): void {
  const pendingTimers = new Set(work.attempt.pendingTimers);
  pendingTimers.delete(timerId);
  work.change({ pendingTimers });
  const { phase } = work.attempt;
  const name = timerId.slice(timerId.indexOf("/") + 1) as TimerName;
  switch (name) {
    case "recruit":
    case "grace":
      if (phase.kind === "recruiting") {
        proceed(work);
      }
      return;
    case "lease":
      if (phase.kind === "leaseWait") {
        elect(work, phase.plan);
      }
      return;
    case "establish":
      if (phase.kind === "establishing") {
        fail(work, `${phase.plan.candidate} was not confirmed by its quorum in time`, []);
      }
      return;
    default:
      assertNever(name);
  }
}

function onStatus(work: Work, event: Extract<CoordinatorEvent, { kind: "status" }>): void {
  const { phase } = work.attempt;
  const attemptTerm = work.attempt.term;
  assert(phase.kind === "establishing", "statuses count while establishing");
  work.sawTerm(event.promisedTerm);
  if (event.promisedTerm > attemptTerm) {
    fail(work, `${event.node} left term ${attemptTerm} for term ${event.promisedTerm}`, []);
  } else if (event.state === "leader" && event.term === attemptTerm) {
    const { candidate, ruleset } = phase.plan;
    work.note(`term ${attemptTerm}: ${candidate} leads`);
    work.state = { ...work.state, attempt: null, failedAttempts: 0 };
    work.effects.push({
      kind: "finished",
      outcome: { kind: "established", term: attemptTerm, leader: candidate, ruleset },
    });
  } else if (!event.running) {
    fail(work, `Postgres of ${event.node} stopped before it led`, []);
  }
}

function failForShortages(work: Work, shortages: readonly Shortage[]): void {
  const unanswered = [...work.attempt.asked].filter(
    (id) => !work.attempt.reports.has(id) && !work.attempt.failures.has(id),
  );
  const reasons = shortages.map(explainShortage);
  for (const [id, failure] of work.attempt.failures) {
    reasons.push(`${id}: ${failure}`);
  }
  for (const id of unanswered) {
    reasons.push(
      `${id}: no answer within ${recruitTimeoutMs(work.state.failedAttempts, work.state.options)} ms`,
    );
  }
  fail(work, reasons.join(". "), shortages);
}

function fail(work: Work, reason: string, shortages: readonly Shortage[]): void {
  const { attempt } = work;
  const failedAttempts = work.state.failedAttempts + 1;
  const retryAfterMs = backoffMs(failedAttempts, attempt.request.jitter, work.state.options);
  work.note(`term ${attempt.term} failed: ${reason}`);
  work.state = { ...work.state, attempt: null, failedAttempts };
  const { highestTerm } = work.state;
  work.effects.push({
    kind: "finished",
    outcome: { kind: "failed", term: attempt.term, reason, shortages, retryAfterMs, highestTerm },
  });
}
