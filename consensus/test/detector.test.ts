import t from "tap";
import {
  compilePolicy,
  type Decision,
  type DetectorState,
  defaultDetectorOptions,
  detect,
  failureTable,
  findPolicy,
  initialDetector,
  isMember,
  type Link,
  lsn,
  type NodeId,
  type NodeView,
  nodeId,
  type Observation,
  type Observed,
  type Policy,
  type RowName,
  type Ruleset,
  term,
} from "../src/index.ts";

const ids = ["n1", "n2", "n3"].map(nodeId);
const now = 100_000;
const options = defaultDetectorOptions;

function majority(): Ruleset {
  const nodes = ids.map((id) => ({ id, zone: id, region: "" }));
  const compiled = compilePolicy({ policy: findPolicy("majority") as Policy, nodes, version: 1 });
  if (!compiled.ok) {
    throw new Error("majority of three");
  }
  return compiled.ruleset;
}

const base: NodeView = {
  postgres: "running",
  state: "follower",
  term: term(7),
  promisedTerm: term(7),
  inRecovery: true,
  leader: nodeId("n1"),
  receiver: { state: "streaming", timeline: term(7), lastMessageAgeMs: 10 },
  followers: [],
  ruleset: null,
  wasLeader: false,
  operatorStopped: false,
};
const leads: Partial<NodeView> = {
  state: "leader",
  inRecovery: false,
  receiver: null,
  followers: ["n2", "n3"].map((id) => ({ node: nodeId(id), member: true, timeline: term(7), replyAgeMs: 5 })),
};
const broken: Partial<NodeView> = {
  receiver: { state: "connecting", timeline: term(7), lastMessageAgeMs: 5_000 },
};
const crashed: Partial<NodeView> = { postgres: "crashed", state: "", receiver: null, wasLeader: true };

interface Case {
  readonly view?: Partial<NodeView>;
  readonly link?: Link;
  readonly sinceMs?: number;
  readonly viewAtMs?: number;
  readonly promiseRoseAtMs?: number;
}

function observation(cases: Readonly<Record<string, Case>>, more: Partial<Observation> = {}): Observation {
  const nodes = new Map<NodeId, Observed>();
  for (const [name, given] of Object.entries(cases)) {
    const id = nodeId(name);
    nodes.set(id, {
      id,
      link: given.link ?? "connected",
      linkSinceMs: given.sinceMs ?? now - 50_000,
      view: { ...base, ...given.view },
      viewAtMs: given.viewAtMs ?? now - 10,
      promiseRoseAtMs: given.promiseRoseAtMs ?? now - 60_000,
    });
  }
  return { nowMs: now, nodes, rulesets: [majority()], rank: 0, busy: new Set(), ...more };
}

const seenRows = new Set<RowName>();

function decide(given: Observation, state: DetectorState = initialDetector): readonly Decision[] {
  const { decisions } = detect(state, given);
  for (const decision of decisions) {
    seenRows.add(decision.row);
  }
  return decisions;
}

function brief(decisions: readonly Decision[]): string[] {
  return decisions.map((decision) => {
    switch (decision.kind) {
      case "repair":
        return `${decision.row} ${decision.action} ${decision.node}`;
      case "waitUntil":
        return `${decision.row} wait ${decision.atMs - now}`;
      case "nothing":
      case "changeLeader":
        return `${decision.row} ${decision.kind}`;
      default:
        return decision satisfies never;
    }
  });
}

/** The same observation again and again, as time passes; returns when the leader was changed. */
function changedAfterMs(given: Observation, limitMs: number): number | null {
  let state = initialDetector;
  for (let passedMs = 0; passedMs <= limitMs; passedMs += 50) {
    const nodes = new Map<NodeId, Observed>();
    for (const [id, observed] of given.nodes) {
      const aging = observed.link === "connected" ? passedMs : 0;
      nodes.set(id, { ...observed, viewAtMs: observed.viewAtMs + aging });
    }
    const step = detect(state, { ...given, nodes, nowMs: given.nowMs + passedMs });
    state = step.state;
    if (step.decisions[0]?.kind === "changeLeader") {
      seenRows.add(step.decisions[0].row);
      return passedMs;
    }
  }
  return null;
}

t.test("all is well", (t) => {
  const given = observation({ n1: { view: leads }, n2: {}, n3: {} });
  t.same(brief(decide(given)), ["leader_well nothing", "node_well nothing", "node_well nothing"]);
  t.same(brief(decide({ ...given, rulesets: [] })), [
    "no_ruleset nothing",
    "node_well nothing",
    "node_well nothing",
  ]);
  t.end();
});

t.test("the leader's Postgres has died: at once, by the first orchestrator", (t) => {
  const given = observation({ n1: { view: crashed }, n2: { view: broken }, n3: { view: broken } });
  t.same(brief(decide(given)), ["leader_postgres_down changeLeader"]);
  t.match(decide(given)[0]?.reason, /Postgres of n1, leader of term 7: crashed/);
  t.same(brief(decide({ ...given, rank: 2 })), [`leader_postgres_down wait ${2 * options.staggerMs}`]);
  const restarted = observation({
    n1: { view: { state: "fenced", receiver: null, leader: null, wasLeader: true } },
    n2: {},
    n3: {},
  });
  t.same(brief(decide(restarted)), ["leader_postgres_down changeLeader"]);
  t.end();
});

t.test("the connection to the leader was reset", (t) => {
  const reset = { view: leads, link: "reset" as const, sinceMs: now - 1 };
  const both = observation({ n1: reset, n2: { view: broken }, n3: { view: broken } });
  t.same(brief(decide(both)), ["leader_connection_broken changeLeader"]);
  const one = observation({ n1: reset, n2: {}, n3: { view: broken } });
  t.same(brief(decide(one)), ["leader_well nothing"], "its sidecar died, but n2 streams: Postgres lives");
  const alone = observation({
    n1: reset,
    n2: { view: broken },
    n3: { link: "silent", view: broken, viewAtMs: now - 9_000 },
  });
  t.match(decide(alone)[0], { kind: "waitUntil", row: "change_impossible" });
  t.match(decide(alone)[0]?.reason, /n1 could still lead \(ruleset 1\); out of reach: n1, n3|out of reach/);
  t.end();
});

t.test("an isolated or frozen leader gets a bounded time", (t) => {
  const silent = { view: leads, link: "silent" as const, viewAtMs: now - 1_000 };
  const given = observation({ n1: silent, n2: { view: broken }, n3: { view: broken } });
  t.same(brief(decide(given)), [`leader_silent wait ${options.silentMs - 1_000}`]);
  t.equal(changedAfterMs(given, 5_000), options.silentMs - 1_000);
  const streaming = observation({ n1: silent, n2: {}, n3: {} });
  t.same(brief(decide(streaming)), ["leader_well nothing"], "only we don't see it; its followers do");
  t.end();
});

t.test("a leader whose followers can't reach it", (t) => {
  const given = observation({ n1: { view: leads }, n2: { view: broken }, n3: { view: broken } });
  t.same(brief(decide(given))[0], `leader_without_quorum wait ${options.silentMs}`);
  t.equal(changedAfterMs(given, 5_000), options.silentMs);
  t.end();
});

t.test("no leader", (t) => {
  const fenced: Partial<NodeView> = { state: "fenced", leader: null, receiver: null };
  const given = observation({ n1: { view: fenced }, n2: { view: fenced }, n3: { view: fenced } });
  t.same(brief(decide(given)), ["no_leader changeLeader"]);
  const starting = observation({ n1: { view: fenced }, n2: { view: fenced } });
  t.same(brief(decide(starting)), [`no_leader wait ${options.noLeaderHoldMs}`]);
  t.equal(changedAfterMs(starting, 5_000), options.noLeaderHoldMs);
  t.end();
});

t.test("somebody is at it", (t) => {
  const given = observation({
    n1: { view: crashed },
    n2: { view: { promisedTerm: term(8) }, promiseRoseAtMs: now - 100 },
    n3: {},
  });
  t.same(brief(decide(given)), [`change_under_way wait ${options.attemptMs - 100}`]);
  t.equal(changedAfterMs(given, 5_000), options.attemptMs - 100, "but not for ever");
  const establishing = observation({
    n1: { view: { ...leads, state: "elected", term: term(8), promisedTerm: term(8) } },
    n2: {},
    n3: {},
  });
  t.same(brief(decide(establishing)), [`leader_establishing wait ${options.attemptMs}`]);
  const own = { ...given, endedTerm: term(8) };
  t.same(
    brief(decide(own)),
    ["leader_postgres_down changeLeader"],
    "one's own ended attempt is no one's work",
  );
  const begun = detect(initialDetector, establishing);
  const later = detect(begun.state, { ...establishing, nowMs: now + options.attemptMs });
  t.same(
    brief(later.decisions),
    [
      `leader_establishing wait ${options.establishMs}`,
      "node_wrong_leader follow n2",
      "node_wrong_leader follow n3",
    ],
    "if its coordinator is gone, somebody else points the others at it",
  );
  t.equal(changedAfterMs(establishing, 20_000), options.establishMs);
  t.end();
});

t.test("a promise to a dead term", (t) => {
  const stuck = { view: { state: "fenced" as const, promisedTerm: term(9), leader: null, receiver: null } };
  const given = observation({ n1: { view: leads }, n2: {}, n3: stuck });
  t.same(brief(decide(given)), [
    `dead_promise wait ${options.deadPromiseMs}`,
    "node_well nothing",
    "dead_promise nothing",
  ]);
  t.equal(changedAfterMs(given, 30_000), options.deadPromiseMs);
  const observer = observation({ n1: { view: leads }, n2: {}, n3: {}, n9: stuck });
  t.equal(changedAfterMs(observer, 100_000), 6 * options.deadPromiseMs, "an observer is worth less hurry");
  t.end();
});

t.test("promises that take the quorum from a leader that doesn't hear of it, by nobody who goes on", (t) => {
  // A frozen leader; two coordinators shared the others between them, in one term.
  const fenced = { state: "fenced" as const, promisedTerm: term(8), leader: null, receiver: null };
  const given = observation({
    n1: { view: { ...leads, promisedTerm: term(8) } },
    n2: { view: fenced },
    n3: { view: fenced },
  });
  const [decision] = decide(given);
  t.match(decision, {
    kind: "changeLeader",
    row: "leader_revoked",
    reason: /n2, n3 promised above term 7 of n1/,
  });
  const [second] = decide({ ...given, rank: 1 });
  t.match(second, { kind: "waitUntil", atMs: now + options.staggerMs }, "not both at once again");
  const justNow = observation({
    n1: { view: leads },
    n2: { view: fenced, promiseRoseAtMs: now - 100 },
    n3: { view: fenced },
  });
  t.same(brief(decide(justNow)).slice(0, 1), [`change_under_way wait ${options.attemptMs - 100}`]);
  t.match(
    decide({ ...justNow, endedTerm: term(8) })[0],
    { kind: "changeLeader" },
    "whoever knows that his own attempt has ended needn't wait",
  );
  const outOfSight = observation({
    n1: { view: leads },
    n2: { view: fenced, link: "silent" },
    n3: { view: fenced },
  });
  t.match(
    decide(outOfSight)[0],
    { row: "leader_revoked" },
    "promises count, whether one sees the node or not",
  );
  const enough = observation({ n1: { view: leads }, n2: {}, n3: { view: fenced } });
  t.match(decide(enough)[0], { row: "dead_promise", kind: "waitUntil" }, "with a quorum there is less hurry");
  t.end();
});

t.test("repairs", (t) => {
  const about = (view: Partial<NodeView>, link: Link = "connected", id = "n3"): string | undefined => {
    const cases = { n1: { view: leads }, n2: {}, n3: {}, [id]: { view, link } };
    const at = Object.keys(cases)
      .filter((name) => name !== "n1")
      .indexOf(id);
    return brief(decide(observation(cases)))[1 + at];
  };
  t.equal(about({ state: "fenced", leader: null, receiver: null }), "node_fenced follow n3");
  t.equal(about({ leader: nodeId("n2"), term: term(6) }), "node_wrong_leader follow n3");
  t.equal(about({ state: "fetching", term: term(6) }), "node_wrong_leader follow n3");
  t.equal(about({ state: "leader", term: term(5), leader: nodeId("n3") }), "node_older_leader follow n3");
  t.equal(about(broken), `node_not_streaming wait ${options.repairHoldMs}`);
  t.equal(about({}, "silent"), "node_out_of_reach nothing");
  t.equal(about({ postgres: "crashed", state: "" }), "node_postgres_down nothing");
  t.equal(about({ postgres: "stopped", state: "", operatorStopped: true }), "operator_stopped nothing");
  const damaged = { postgres: "failed", state: "", damaged: true } as const;
  t.equal(about(damaged), "node_damaged wait 5000");
  t.equal(about({ ...damaged, operatorStopped: true }), "operator_stopped nothing");
  t.equal(about({ postgres: "absent", state: "" }), "node_lost_data replace n3");
  t.equal(about({ postgres: "absent", state: "" }, "connected", "n7"), "node_without_data create n7");
  t.equal(about({ state: "starting" }), "node_well nothing");
  const outdated = (flushedLsn: number, oldestLsn: number) =>
    brief(
      decide(
        observation({
          n1: { view: { ...leads, oldestLsn: lsn(oldestLsn) } },
          n2: {},
          n3: { view: { flushedLsn: lsn(flushedLsn), receiver: null } },
        }),
      ),
    )[2];
  t.equal(outdated(99, 100), "node_lacks_wal wait 5000", "what it needs is gone");
  t.equal(
    outdated(100, 100),
    `node_not_streaming wait ${options.repairHoldMs}`,
    "the log begins where it ends",
  );
  const observer: Partial<NodeView> = {
    ...leads,
    followers: [{ node: nodeId("n3"), member: false, timeline: term(7), replyAgeMs: 5 }],
  };
  t.same(
    brief(decide(observation({ n1: { view: observer }, n2: {}, n3: {} })))[2],
    "node_not_member follow n3",
  );
  const busy = observation(
    { n1: { view: leads }, n2: {}, n3: { view: { state: "fenced" } } },
    { busy: new Set(["n3"]) },
  );
  t.equal(decide(busy).length, 2, "nobody repairs what is being repaired");
  t.end();
});

t.test("a change of the cohort that nobody goes on with", (t) => {
  const version2 = { ...majority(), version: 2 };
  const pending = observation({
    n1: { view: { ...leads, ruleset: majority(), pending: version2 } },
    n2: {},
    n3: {},
  });
  t.equal(brief(decide(pending))[1], "ruleset_pending nothing");
  const intent = { policy: "majority", options: {}, nodes: majority().cohort };
  const cases = { n1: { view: { ...leads, ruleset: { ...version2, intent } } }, n2: {}, n3: {} };
  const [, waiting] = brief(decide(observation(cases)));
  t.equal(waiting, `cohort_unfinished wait ${options.finishHoldMs}`);
  const first = detect(initialDetector, observation(cases), options);
  const nowMs = now + options.finishHoldMs;
  const nodes = new Map(
    [...observation(cases).nodes].map(([id, node]) => [id, { ...node, viewAtMs: nowMs }]),
  );
  const later = { ...observation(cases), nowMs, nodes };
  t.equal(brief(detect(first.state, later, options).decisions)[1], "cohort_unfinished finish n1");
  t.end();
});

t.test("a follower that streams and stands still", (t) => {
  const ahead: Partial<NodeView> = { ...leads, flushedLsn: lsn(5_000) };
  const cases = (view: Partial<NodeView>) => observation({ n1: { view: ahead }, n2: {}, n3: { view } });
  const after = (
    before: Partial<NodeView>,
    ms: number,
    then: Partial<NodeView> = before,
  ): string | undefined => {
    const first = detect(initialDetector, cases(before), options);
    const nodes = new Map([...cases(then).nodes].map(([id, each]) => [id, { ...each, viewAtMs: now + ms }]));
    const later = { ...cases(then), nodes, nowMs: now + ms };
    const { decisions } = detect(first.state, later, options);
    for (const { row } of decisions) {
      seenRows.add(row);
    }
    return brief(decisions)[2];
  };
  const behind = { flushedLsn: lsn(1_000) };
  t.equal(after(behind, options.stuckMs - 1), "node_well nothing");
  t.equal(after(behind, options.stuckMs), "node_stuck restart n3");
  t.equal(after(behind, options.stuckMs, { flushedLsn: lsn(1_001) }), "node_well nothing", "it moves");
  const version2 = { ...majority(), version: 2 };
  const old = observation({
    n1: { view: { ...leads, ruleset: version2 } },
    n2: { view: { ruleset: version2 } },
    n3: { view: { ruleset: majority() } },
  });
  t.equal(brief(decide(old))[2], `node_wrong_ruleset wait ${options.stuckMs}`);
  const far = observation({
    n1: { view: { ...leads, flushedLsn: lsn(options.lagBytes + 2_000) } },
    n2: {},
    n3: { view: behind },
  });
  t.equal(brief(decide(far))[2], "node_lagging nothing");
  t.end();
});

t.test("a node that came back as another incarnation is lost to the cohort", (t) => {
  const named: Ruleset = {
    ...majority(),
    cohort: majority().cohort.map((each) => (each.id === "n3" ? { ...each, incarnation: "first" } : each)),
  };
  const cases = (incarnation: string) =>
    observation({ n1: { view: leads }, n2: {}, n3: { view: { incarnation } } }, { rulesets: [named] });
  t.equal(brief(decide(cases("second")))[2], "node_lost_data replace n3");
  t.equal(brief(decide(cases("first")))[2], "node_well nothing");
  t.end();
});

t.test("whom the leader's own rules don't name has lost nothing, whatever else was seen", (t) => {
  const two = { ...majority(), version: 2, cohort: majority().cohort.filter(({ id }) => id !== "n3") };
  const lost = { view: { postgres: "absent", state: "" } } as const;
  const given = (view: Partial<NodeView>) =>
    observation({ n1: { view: { ...leads, ...view } }, n2: {}, n3: lost });
  t.equal(brief(decide(given({ ruleset: two })))[2], "node_without_data create n3");
  const joins = decide(given({ ruleset: two, pending: majority() }));
  t.ok(brief(joins).includes("node_lost_data replace n3"), "rules on their way name it");
  t.end();
});

t.test("who knows only rules that name it stays a member", (t) => {
  const two = { ...majority(), version: 2, cohort: majority().cohort.filter(({ id }) => id !== "n3") };
  const given = (ruleset: Ruleset) =>
    observation({ n1: { view: leads }, n2: {}, n3: { view: { ruleset } } }, { rulesets: [two] });
  t.equal(isMember(given(majority()), nodeId("n3")), true, "a new leader's first record may need it");
  t.equal(isMember(given(two), nodeId("n3")), false);
  t.end();
});

t.test("a leader cut from its followers: the patience counts from the last that they heard", (t) => {
  const quiet = (lastMessageAgeMs: number): Partial<NodeView> => ({
    receiver: { state: "streaming", timeline: term(7), lastMessageAgeMs },
  });
  const cut = (ageMs: number) =>
    observation({ n1: { view: leads }, n2: { view: quiet(ageMs) }, n3: { view: quiet(ageMs + 500) } });
  t.equal(brief(decide(cut(options.silentMs + 10)))[0], "leader_without_quorum changeLeader");
  t.equal(brief(decide(cut(options.silentMs - 100)))[0], "leader_well nothing", "one of them still hears it");
  t.end();
});

t.test("a leader whose disk hangs goes on to send heartbeats, and is replaced", (t) => {
  const hung = (diskStuckMs: number) =>
    observation({ n1: { view: { ...leads, diskStuckMs } }, n2: {}, n3: {} });
  t.equal(brief(decide(hung(2_100)))[0], "leader_disk_hangs changeLeader");
  t.equal(brief(decide(hung(1_900)))[0], "leader_well nothing");
  const twoHang = observation({
    n1: { view: { ...leads, diskStuckMs: 2_100 } },
    n2: { view: { diskStuckMs: 2_100 } },
    n3: {},
  });
  t.match(brief(decide(twoHang))[0], /^change_impossible wait/, "nobody could promise");
  t.end();
});

t.test("a Postgres that does not answer its sidecar is not counted on", (t) => {
  const frozen = observation({
    n1: { view: leads },
    n2: {},
    n3: { view: { state: "fenced", controlAgeMs: 1_500 } },
  });
  t.equal(brief(decide(frozen))[2], "node_frozen nothing");
  const down = { ...crashed, controlAgeMs: null };
  const alone = observation({
    n1: { view: down },
    n2: { view: { ...broken, controlAgeMs: 9_000 } },
    n3: { view: broken },
  });
  t.match(brief(decide(alone))[0], /change_impossible wait/, "n3 alone is no quorum");
  t.end();
});

t.test("a leader change that fetches a long log is left alone as long as the log grows", (t) => {
  const fetching = (flushed: number, nowMs: number): Observation => {
    const view = { state: "fetching" as const, promisedTerm: term(9), flushedLsn: lsn(flushed) };
    const seen = observation({
      n1: { view: crashed },
      n2: { view },
      n3: { view: { promisedTerm: term(9) } },
    });
    const nodes = new Map([...seen.nodes].map(([id, each]) => [id, { ...each, promiseRoseAtMs: now }]));
    return { ...seen, nodes, nowMs };
  };
  const first = detect(initialDetector, fetching(100, now), options);
  const growing = detect(first.state, fetching(200, now + options.attemptMs), options);
  t.match(brief(growing.decisions)[0], /change_under_way wait/);
  const still = detect(growing.state, fetching(200, now + 2 * options.attemptMs), options);
  t.match(brief(still.decisions)[0], /leader_postgres_down change/);
  t.end();
});

t.test("guesses get more patience when the leader has changed often; reports don't", (t) => {
  const led = (byTerm: number, more: Partial<NodeView> = {}): Observation => {
    const of = { term: term(byTerm), promisedTerm: term(byTerm) };
    const receiver = { state: "streaming" as const, timeline: term(byTerm), lastMessageAgeMs: 10 };
    const cases = {
      n1: { view: { ...leads, ...of, ...more } },
      n2: { view: { ...of, receiver } },
      n3: { view: { ...of, receiver } },
    };
    return observation(cases);
  };
  let { state } = detect(initialDetector, led(7), options);
  for (const next of [8, 9, 10, 11]) {
    ({ state } = detect(state, led(next), options));
  }
  const isolated = (ms: number): Observation => {
    const of = { term: term(11), promisedTerm: term(11) };
    const seen = observation({
      n1: { view: { ...leads, ...of }, link: "silent" },
      n2: { view: { ...of, ...broken } },
      n3: { view: { ...of, ...broken } },
    });
    return { ...seen, nowMs: now + ms };
  };
  const patience = 4 * options.silentMs;
  const early = detect(state, isolated(0), options);
  t.match(brief(detect(early.state, isolated(patience - 100), options).decisions)[0], /leader_silent wait/);
  t.match(brief(detect(early.state, isolated(patience), options).decisions)[0], /leader_silent change/);
  const { decisions } = detect(state, led(11, { ...crashed, term: term(11) }), options);
  t.match(brief(decisions)[0], /leader_postgres_down change/, "what is reported is acted on at once");
  t.end();
});

t.test("every row was seen, and every decision has its row", (t) => {
  const rows = failureTable.map(({ name }) => name);
  t.same([...rows].sort(), [...seenRows].sort());
  t.end();
});
