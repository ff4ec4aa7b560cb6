// Which life of a node a coordinator tells to count.

import t from "tap";
import {
  type Call,
  type CallResult,
  type CoordinatorEffect,
  type CoordinatorEvent,
  type CoordinatorState,
  compilePolicy,
  coordinatorId,
  findPolicy,
  initialCoordinator,
  lsn,
  type NodeId,
  nodeId,
  type Policy,
  type Report,
  type Ruleset,
  stepCoordinator,
  term,
} from "../src/index.ts";

const ids = ["n1", "n2", "n3"].map(nodeId) as [NodeId, NodeId, NodeId];

function majority(version: number, lives: readonly (string | undefined)[]): Ruleset {
  const nodes = ids.map((id, at) => {
    const incarnation = lives[at];
    return { id, zone: "a", region: "", ...(incarnation === undefined ? {} : { incarnation }) };
  });
  const compiled = compilePolicy({ policy: findPolicy("majority") as Policy, nodes, version });
  if (!compiled.ok) {
    throw new Error("majority of three");
  }
  return compiled.ruleset;
}

/** n1 leads term 6 with the reports of n1 and n2: what is n2 told? */
function told(life: string | undefined, applied: Ruleset, tail: readonly Ruleset[] = []): Call | undefined {
  let state: CoordinatorState = initialCoordinator(coordinatorId("c"));
  let effects: readonly CoordinatorEffect[] = [];
  const feed = (event: CoordinatorEvent): void => {
    ({ state, effects } = stepCoordinator(state, event));
  };
  const report = (node: NodeId, incarnation: string | undefined): CallResult => {
    const position = { term: term(5), lsn: lsn(10) };
    const given: Report = { node, position, commitLsn: lsn(0), ruleset: applied, tailRulesets: tail };
    return { kind: "recruited", report: incarnation === undefined ? given : { ...given, incarnation } };
  };
  const request = { reason: "test", rulesets: [applied], highestTerm: term(5), jitter: 0, candidate: ids[0] };
  feed({ kind: "begin", request });
  feed({ kind: "reply", callId: "6/recruit/n1", result: report(ids[0], "first") });
  feed({ kind: "reply", callId: "6/recruit/n2", result: report(ids[1], life) });
  feed({ kind: "reply", callId: "6/recruit/n3", result: { kind: "unreachable", message: "" } });
  const position = { term: term(6), lsn: lsn(11) };
  feed({ kind: "reply", callId: "6/elect/n1", result: { kind: "elected", position } });
  return effects.map((effect) => (effect.kind === "call" ? effect.call : undefined)).find(Boolean);
}

t.test("the one that every ruleset of the term names", (t) => {
  const named = majority(2, ["first", "second", "third"]);
  t.match(told("second", named), { method: "follow", node: "n2", counts: "second" });
  const before = majority(1, ["first", undefined, "third"]);
  const unsure = told("second", before, [named]);
  t.match(unsure, { method: "follow", node: "n2", member: true });
  t.notOk(unsure !== undefined && "counts" in unsure, "one of them counts whichever life");
  const legacy = told(undefined, majority(2, []));
  t.match(legacy, { method: "follow", node: "n2" });
  t.notOk(legacy !== undefined && "counts" in legacy, "nothing is distinguished");
  t.end();
});
