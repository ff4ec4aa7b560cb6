// When a coordinator waits for read leases, and for how long.

import t from "tap";
import {
  type CallResult,
  type ChangeRequest,
  type CoordinatorEffect,
  type CoordinatorEvent,
  type CoordinatorState,
  compilePolicy,
  coordinatorId,
  findPolicy,
  initialCoordinator,
  leaseDriftMargin,
  leaseLeftMs,
  lsn,
  type NodeId,
  nodeId,
  type Policy,
  type Report,
  type Ruleset,
  stepCoordinator,
  term,
} from "../src/index.ts";

const ids = ["n1", "n2", "n3"].map(nodeId);
const compiled = compilePolicy({
  policy: findPolicy("majority") as Policy,
  nodes: ids.map((id) => ({ id, zone: "a", region: "" })),
  version: 1,
});
const ruleset = (compiled.ok ? compiled.ruleset : undefined) as Ruleset;

function report(node: NodeId, atTerm: number, at: number, leaseMs: number): CallResult {
  const position = { term: term(atTerm), lsn: lsn(at) };
  const given: Report = { node, position, commitLsn: lsn(0), ruleset, tailRulesets: [], leaseMs };
  return { kind: "recruited", report: given };
}

/** Feeds the answers to the recruitment; returns what the coordinator wants next. */
function recruit(answers: readonly CallResult[], more: Partial<ChangeRequest> = {}) {
  let state: CoordinatorState = initialCoordinator(coordinatorId("c"));
  let effects: readonly CoordinatorEffect[] = [];
  const feed = (event: CoordinatorEvent): void => {
    ({ state, effects } = stepCoordinator(state, event));
  };
  const request: ChangeRequest = {
    reason: "test",
    rulesets: [ruleset],
    highestTerm: term(5),
    jitter: 0.5,
    ...more,
  };
  feed({ kind: "begin", request });
  for (const [at, result] of answers.entries()) {
    feed({ kind: "reply", callId: `6/recruit/n${at + 1}`, result });
  }
  const brief = (): string =>
    effects
      .flatMap((effect) =>
        effect.kind === "call"
          ? [`${effect.call.method} ${effect.call.node}`]
          : effect.kind === "timer"
            ? [`${effect.timerId.replace(/.*\//, "")} ${effect.afterMs}`]
            : [],
      )
      .join(", ");
  return { feed, brief };
}

const gone: CallResult = { kind: "unreachable", message: "" };

function refused(code: string): CallResult {
  return { kind: "refused", refusal: { code, message: "" } };
}

t.test("whoever may hold a lease was recruited, or its Postgres is down: nobody waits", (t) => {
  const n2 = report(ids[1] as NodeId, 5, 10, 500);
  const n3 = report(ids[2] as NodeId, 5, 10, 500);
  t.equal(recruit([report(ids[0] as NodeId, 5, 10, 500), n2, n3]).brief(), "elect n1");
  const led = { leader: { node: ids[0] as NodeId, term: term(5) } };
  t.equal(recruit([refused("postgres_down"), n2, n3], led).brief(), "elect n2");
  t.equal(recruit([refused("no_data"), n2, n3], led).brief(), "elect n2");
  t.equal(recruit([gone, n2, n3].map((each, at) => (at === 0 ? gone : each))).brief(), "lease 550");
  t.equal(recruit([report(ids[0] as NodeId, 5, 10, 500), n2, gone], led).brief(), "elect n1", "n3 never led");
  t.end();
});

t.test("otherwise it waits for the longest lease reported and a margin, and fetches meanwhile", (t) => {
  const n2 = report(ids[1] as NodeId, 5, 10, 200);
  const n3 = report(ids[2] as NodeId, 5, 10, 500);
  const led = { leader: { node: ids[0] as NodeId, term: term(5) } };
  const one = recruit([gone, n2, n3], led);
  t.equal(one.brief(), "lease 550");
  one.feed({ kind: "timer", timerId: "6/lease" });
  t.equal(one.brief(), "elect n2");
  const behind = recruit([gone, report(ids[1] as NodeId, 5, 5, 200), n3], {
    ...led,
    candidate: ids[1] as NodeId,
  });
  t.equal(behind.brief(), "lease 550, fetch n2");
  const target = { term: term(5), lsn: lsn(10) };
  behind.feed({ kind: "reply", callId: "6/fetch/n2", result: { kind: "fetched", position: target } });
  t.equal(behind.brief(), "", "fetched before the lease is over");
  behind.feed({ kind: "timer", timerId: "6/lease" });
  t.equal(behind.brief(), "elect n2");
  t.end();
});

t.test("the wait ends as soon as whoever may hold the lease has left its term", (t) => {
  const [n1, n2, n3] = ids as [NodeId, NodeId, NodeId];
  const led = { leader: { node: n1, term: term(5) } };
  const others = (at: number): readonly [string, CallResult][] => [
    ["6/recruit/n2", report(n2, 5, at, 500)],
    ["6/recruit/n3", report(n3, 5, 10, 500)],
  ];
  const begun = (more: Partial<ChangeRequest>, at = 10) => {
    const attempt = recruit([], { ...led, ...more });
    for (const [callId, result] of others(at)) attempt.feed({ kind: "reply", callId, result });
    attempt.feed({ kind: "timer", timerId: "6/grace" });
    return attempt;
  };
  const late = report(n1, 5, 12, 500);
  for (const [what, result, then] of [
    ["recruited", late, "elect n2"],
    ["down", refused("postgres_down"), "elect n2"],
    ["refused for another reason", refused("timeout"), ""],
    ["out of reach", gone, ""],
  ] as const) {
    const attempt = begun({});
    t.equal(attempt.brief(), "lease 550");
    attempt.feed({ kind: "reply", callId: "6/recruit/n1", result });
    t.equal(attempt.brief(), then, what);
    attempt.feed({ kind: "timer", timerId: "6/lease" });
    t.equal(attempt.brief(), then === "" ? "elect n2" : "", `${what}, and then the timer`);
  }
  const fetching = begun({ candidate: n2 }, 5);
  t.equal(fetching.brief(), "lease 550, fetch n2");
  fetching.feed({ kind: "reply", callId: "6/recruit/n1", result: late });
  t.equal(fetching.brief(), "", "not before the log is there");
  const position = { term: term(5), lsn: lsn(10) };
  fetching.feed({ kind: "reply", callId: "6/fetch/n2", result: { kind: "fetched", position } });
  t.equal(fetching.brief(), "elect n2");
  const unknown = begun({ leader: { node: n1, term: term(4) } });
  unknown.feed({ kind: "reply", callId: "6/recruit/n1", result: late });
  t.equal(unknown.brief(), "elect n2", "of several that may hold one it was the last");
  t.end();
});

t.test("a leader whose Postgres was seen to end holds no lease, unless the log tells of a later one", (t) => {
  const answers = [gone, report(ids[1] as NodeId, 5, 10, 500), report(ids[2] as NodeId, 5, 10, 500)];
  const ended = (of: number) => ({ leader: { node: ids[0] as NodeId, term: term(of), ended: true } });
  t.equal(recruit(answers, ended(5)).brief(), "elect n2");
  t.equal(recruit(answers, ended(4)).brief(), "lease 550");
  t.end();
});

t.test("what a recruited node confirmed last is old: so much less is left of a lease", (t) => {
  t.equal(leaseLeftMs(500, null), 500, "unknown");
  t.equal(leaseLeftMs(500, 0), 500);
  t.equal(leaseLeftMs(500, 110), 400, "its clock may be fast");
  t.equal(leaseLeftMs(500, 5_000), 0);
  t.equal(leaseLeftMs(0, null), 0, "there are no leases");
  // Age and wait together are the lease with its margin.
  for (const ageMs of [0, 1, 10, 99, 250, 400, 549, 550]) {
    const waitMs = Math.ceil(leaseLeftMs(500, ageMs) * (1 + leaseDriftMargin));
    t.ok(ageMs + waitMs >= 550, `${ageMs} + ${waitMs}`);
    t.ok(ageMs + waitMs < 553, "and hardly more");
  }
  const led = { leader: { node: ids[0] as NodeId, term: term(5) } };
  const old = [gone, report(ids[1] as NodeId, 5, 10, 0), report(ids[2] as NodeId, 5, 10, 0)];
  t.equal(recruit(old, led).brief(), "elect n2", "nobody waits for an isolated leader");
  const one = [gone, report(ids[1] as NodeId, 5, 10, 0), report(ids[2] as NodeId, 5, 10, 100)];
  t.equal(recruit(one, led).brief(), "lease 111", "the one that heard it last counts");
  t.end();
});

t.test("a dead leader's answer isn't waited for", (t) => {
  const others = (leader: ChangeRequest["leader"]): string => {
    const attempt = recruit([], leader === undefined ? {} : { leader });
    for (const id of ["n2", "n3"])
      attempt.feed({ kind: "reply", callId: `6/recruit/${id}`, result: report(nodeId(id), 5, 10, 0) });
    return attempt.brief();
  };
  const n1 = ids[0] as NodeId;
  t.match(others(undefined), /^grace \d+$/, "anybody may have more of the log");
  t.match(others({ node: n1, term: term(5) }), /^grace \d+$/);
  t.equal(others({ node: n1, term: term(5), ended: true }), "elect n2");
  t.end();
});

t.test("a claim older than the log says nothing about who leads", (t) => {
  const n2 = report(ids[1] as NodeId, 5, 10, 500);
  const n3 = report(ids[2] as NodeId, 5, 10, 500);
  const old = { leader: { node: ids[1] as NodeId, term: term(4) } };
  t.equal(recruit([gone, n2, n3], old).brief(), "lease 550");
  const known = { leader: { node: ids[1] as NodeId, term: term(5) } };
  t.equal(recruit([gone, n2, n3], known).brief(), "elect n2");
  t.equal(recruit([gone, report(ids[1] as NodeId, 5, 10, 0), n3], { leaseWaitMs: 900 }).brief(), "lease 900");
  t.end();
});
