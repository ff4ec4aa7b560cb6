// Goals and their next steps, against an imagined cluster in which every step succeeds, or is left half done.

import t from "tap";
import {
  bridgeRuleset,
  builtInPolicies,
  type CohortGoal,
  type CohortNode,
  type CohortStep,
  compilePolicy,
  dryRunCohortChange,
  findPolicy,
  formatRule,
  goalOfIntent,
  goalOfRepair,
  lsn,
  type NodeId,
  type NodeView,
  nextCohortStep,
  nodeId,
  type Observation,
  type Observed,
  type Policy,
  parseRuleset,
  type Ruleset,
  term,
} from "../src/index.ts";

const now = 1_000;

function member(id: string, incarnation?: string): CohortNode {
  return { id: nodeId(id), zone: id, region: "", ...(incarnation === undefined ? {} : { incarnation }) };
}

function policy(name: string): Policy {
  const found = findPolicy(name);
  if (found === undefined) {
    throw new Error(name);
  }
  return found;
}

function rulesetOf(name: string, ids: readonly string[], options = {}, version = 1): Ruleset {
  const nodes = ids.map((id) => member(id, `${id}-1`));
  const compiled = compilePolicy({ policy: policy(name), nodes, options, version });
  if (!compiled.ok) {
    throw new Error(compiled.refusals.map(({ message }) => message).join());
  }
  return compiled.ruleset;
}

function goal(name: string, ids: readonly string[], more: Partial<CohortGoal> = {}): CohortGoal {
  return {
    policy: policy(name),
    options: {},
    nodes: ids.map((id) => member(id)),
    observers: [],
    leaving: [],
    ...more,
  };
}

function cluster(
  ruleset: Ruleset,
  ids: readonly string[],
  changes: Record<string, Partial<NodeView>> = {},
): Observation {
  const leader = nodeId(ids[0] ?? "");
  const followers = ids
    .slice(1)
    .filter((id) => changes[id]?.postgres !== "absent" && changes[id]?.receiver !== null)
    .map((id) => ({
      node: nodeId(id),
      member: true,
      timeline: term(3),
      replyAgeMs: 1,
      flushedLsn: lsn(900),
    }));
  const nodes = new Map<NodeId, Observed>();
  for (const id of ids) {
    const leads = id === leader;
    const view: NodeView = {
      postgres: "running",
      state: leads ? "leader" : "follower",
      term: term(3),
      promisedTerm: term(3),
      inRecovery: !leads,
      leader,
      receiver: leads ? null : { state: "streaming", timeline: term(3), lastMessageAgeMs: 1 },
      followers: leads ? followers : [],
      ruleset,
      incarnation: `${id}-1`,
      flushedLsn: lsn(900),
      wasLeader: false,
      operatorStopped: false,
      ...changes[id],
    };
    nodes.set(nodeId(id), {
      id: nodeId(id),
      link: "connected",
      linkSinceMs: 0,
      view,
      viewAtMs: now,
      promiseRoseAtMs: 0,
    });
  }
  return { nowMs: now, nodes, rulesets: [ruleset], rank: 0, busy: new Set() };
}

function brief(step: CohortStep): string {
  switch (step.kind) {
    case "follow":
      return `follow ${step.node}`;
    case "changeRuleset": {
      const { version, cohort, intent } = step.wanted;
      return `rules ${version} ${cohort.map(({ id }) => id).join(",")}${intent === undefined ? "" : " on the way"}`;
    }
    case "changeLeader":
      return `lead ${step.from}>${step.to}`;
    case "stop":
      return `stop ${step.node}`;
    default:
      return `${step.kind}: ${step.reason}`;
  }
}

function dryRun(wanted: CohortGoal, seen: Observation): string[] {
  const { steps, end } = dryRunCohortChange(wanted, seen);
  return [...steps.map(brief), brief(end).replace(/:.*/, "")];
}

const three = rulesetOf("majority", ["n1", "n2", "n3"]);
const empty: Partial<NodeView> = { postgres: "absent", state: "", receiver: null, ruleset: null };

t.test("add, remove, demote, promote, another policy", (t) => {
  const four = cluster(three, ["n1", "n2", "n3", "n4"], { n4: empty });
  t.same(dryRun(goal("majority", ["n1", "n2", "n3", "n4"]), four), [
    "follow n4",
    "rules 2 n1,n2,n3,n4",
    "done",
  ]);
  t.same(
    dryRun(goal("majority", ["n1", "n2"], { leaving: [nodeId("n3")] }), cluster(three, ["n1", "n2", "n3"])),
    ["rules 2 n1,n2", "stop n3", "done"],
  );
  t.same(
    dryRun(goal("majority", ["n1", "n2"], { observers: [nodeId("n3")] }), cluster(three, ["n1", "n2", "n3"])),
    ["rules 2 n1,n2", "done"],
    "a member becomes an observer",
  );
  t.same(
    dryRun(goal("majority", ["n1", "n2", "n3", "n4"]), cluster(three, ["n1", "n2", "n3", "n4"])),
    ["rules 2 n1,n2,n3,n4", "done"],
    "an observer becomes a member",
  );
  t.same(dryRun(goal("any-n", ["n1", "n2", "n3"]), cluster(three, ["n1", "n2", "n3"])), [
    "rules 2 n1,n2,n3",
    "done",
  ]);
  t.same(dryRun(goal("majority", ["n1", "n2", "n3"]), cluster(three, ["n1", "n2", "n3"])), ["done"]);
  t.end();
});

t.test("the leader leaves, or may not lead any more", (t) => {
  const seen = cluster(three, ["n1", "n2", "n3"]);
  t.same(dryRun(goal("majority", ["n2", "n3"], { leaving: [nodeId("n1")] }), seen), [
    "lead n1>n2",
    "rules 2 n2,n3",
    "stop n1",
    "done",
  ]);
  const moved = cluster(three, ["n1", "n2", "n3", "m1", "m2", "m3"], { m1: empty, m2: empty, m3: empty });
  const away = goal("majority", ["m1", "m2", "m3"], { leaving: ["n1", "n2", "n3"].map(nodeId) });
  t.same(dryRun(away, moved), [
    "follow m1",
    "follow m2",
    "follow m3",
    "rules 2 m1,m2,m3,n1,n2,n3 on the way",
    "lead n1>m1",
    "rules 3 m1,m2,m3",
    "stop n1",
    "stop n2",
    "stop n3",
    "done",
  ]);
  const bridge = bridgeRuleset(three, rulesetOf("any-n", ["m1", "m2"]));
  t.same([...bridge.leaders].map(([id, rule]) => `${id}=${formatRule(rule)}`).sort(), [
    "m1=2(m1,m2)",
    "m2=2(m2,m1)",
    "n1=2(n1,n2,n3)",
    "n2=2(n1,n2,n3)",
    "n3=2(n1,n2,n3)",
  ]);
  t.end();
});

t.test("a lost node is copied, streams without counting, and counts again as another incarnation", (t) => {
  const seen = cluster(three, ["n1", "n2", "n3"], { n3: { ...empty, incarnation: null } });
  const wanted = goalOfRepair(three, builtInPolicies) as CohortGoal;
  t.same(dryRun(wanted, seen), ["follow n3", "rules 2 n1,n2,n3", "done"]);
  const last = dryRunCohortChange(wanted, seen).steps.at(-1);
  t.same(last?.kind === "changeRuleset" && last.wanted.cohort.map(({ incarnation }) => incarnation), [
    "n1-1",
    "n2-1",
    "n3-new",
  ]);
  const copied = cluster(three, ["n1", "n2", "n3"], { n3: { incarnation: "n3-2" } });
  t.same(dryRun(wanted, copied), ["rules 2 n1,n2,n3", "done"], "finished by another");
  t.same(dryRun(goal("majority", ["n1", "n2"]), copied), ["rules 2 n1,n2", "done"], "undone by another");
  const alone = cluster(three, ["n1", "n2", "n3"], {
    n2: { receiver: null, state: "fenced" },
    n3: { incarnation: "n3-2" },
  });
  t.match(brief(nextCohortStep(wanted, alone)), /wait: too few of 2\(n1,n2\) stream from n1/);
  t.end();
});

t.test("a lost node that can't be told from its earlier life leaves the cohort before it is copied", (t) => {
  const plain: Ruleset = { ...three, cohort: ["n1", "n2", "n3"].map((id) => member(id)) };
  const seen = cluster(plain, ["n1", "n2", "n3"], { n3: { ...empty, incarnation: null } });
  const wanted = goalOfRepair(plain, builtInPolicies) as CohortGoal;
  t.same(dryRun(wanted, seen), ["rules 2 n1,n2 on the way", "follow n3", "rules 3 n1,n2,n3", "done"]);
  const [first] = dryRunCohortChange(wanted, seen).steps;
  if (first?.kind !== "changeRuleset") {
    t.fail("the first step is a ruleset");
    return;
  }
  const onTheWay = parseRuleset(first.ruleset.text);
  const taken = onTheWay.ok ? goalOfIntent(onTheWay.ruleset, builtInPolicies) : null;
  t.same(
    taken?.nodes.map(({ id }) => id),
    ["n1", "n2", "n3"],
    "whoever finds it knows what was wanted",
  );
  const half = cluster(first.wanted, ["n1", "n2", "n3"], { n3: { incarnation: "n3-2" } });
  t.same(dryRun(wanted, half), ["rules 3 n1,n2,n3", "done"], "finished by another");
  t.same(dryRun(goal("majority", ["n1", "n2"]), half), ["rules 3 n1,n2", "done"], "undone by another");
  t.end();
});

t.test("what has to be waited for, and what is refused", (t) => {
  const step = (wanted: CohortGoal, seen: Observation): string => brief(nextCohortStep(wanted, seen));
  const seen = cluster(three, ["n1", "n2", "n3", "n4"]);
  const four = goal("majority", ["n1", "n2", "n3", "n4"]);
  t.match(
    step(four, cluster(three, ["n1", "n2", "n3", "n4"], { n4: { promisedTerm: term(9) } })),
    /promised term 9/,
  );
  t.match(
    step(four, cluster(three, ["n1", "n2", "n3", "n4"], { n4: { operatorStopped: true } })),
    /operator/,
  );
  t.match(step(four, cluster(three, ["n1", "n2", "n3"])), /n4 is out of reach/);
  t.match(step(four, cluster(three, ["n2", "n3", "n1", "n4"], { n2: { state: "fenced" } })), /no node leads/);
  t.match(step(goal("cross-zone", ["n1"]), seen), /refused: policy cross-zone doesn't fit n1/);
  t.match(
    step(goal("majority", ["n1", "n2"], { observers: [nodeId("n2")] }), seen),
    /can't be in the cohort and out/,
  );
  const pending = cluster(three, ["n1", "n2", "n3"], {
    n1: { pending: rulesetOf("majority", ["n1", "n2"]) },
  });
  t.match(step(goal("majority", ["n1"]), pending), /wait: ruleset 1 is not durable yet/);
  const far = cluster(three, ["n1", "n2", "n3", "n4"], { n1: { flushedLsn: lsn(100_000_000) } });
  t.match(step(four, far), /wait: n4 lacks \d+ bytes/);
  const silent = { receiver: null, state: "fenced" as const };
  const alone = cluster(three, ["n1", "n2", "n3"], { n2: silent, n3: silent });
  t.match(step(goal("any-n", ["n1", "n2", "n3"]), alone), /too few of 2\(n1,n2,n3\) stream/);
  t.end();
});
