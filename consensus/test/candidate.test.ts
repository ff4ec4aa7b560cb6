// Whom a leader change chooses among those who could lead: who has just been started comes last, unless only his log counts.

import t from "tap";
import { atLeast, judge, lsn, node, nodeId, type Report, type Ruleset, term } from "../src/index.ts";

const ids = ["n1", "n2", "n3"].map(nodeId);

const ruleset = (needed: number, members = ids): Ruleset => ({
  version: 1,
  name: "test",
  cohort: members.map((id) => ({ id, zone: "a", region: "" })),
  leaders: new Map(members.map((id) => [id, atLeast(needed, members.map(node))])),
});

const up = 600_000;

function candidate(rules: Ruleset, nodes: Readonly<Record<string, { at: number; upMs?: number }>>): string {
  const reports = Object.entries(nodes).map(
    ([id, { at, upMs }]): Report => ({
      node: nodeId(id),
      position: { term: term(3), lsn: lsn(at) },
      commitLsn: lsn(0),
      ruleset: rules,
      tailRulesets: [],
      ...(upMs === undefined ? {} : { upMs }),
    }),
  );
  const verdict = judge({ reports: new Map(reports.map((report) => [report.node, report])) });
  if (!verdict.ok) throw new Error("no valid recruitment");
  return `${verdict.candidate.node}, newest ${verdict.newest.node}`;
}

t.test("a leader that was killed and is back already is not chosen again", async (t) => {
  const rules = ruleset(2);
  const killed = { at: 120, upMs: 300 };
  t.equal(
    candidate(rules, { n1: killed, n2: { at: 100, upMs: up }, n3: { at: 110, upMs: up } }),
    "n3, newest n3",
    "its tail was never durable: the others do without",
  );
  t.equal(
    candidate(rules, { n1: { at: 120, upMs: up }, n2: { at: 100, upMs: up }, n3: { at: 110, upMs: up } }),
    "n1, newest n1",
    "one that has been running all the time is",
  );
  t.equal(
    candidate(rules, { n1: { at: 120, upMs: 0 }, n2: { at: 120, upMs: up }, n3: { at: 110, upMs: up } }),
    "n2, newest n1",
    "nor one that isn't consistent",
  );
  t.equal(
    candidate(rules, { n1: killed, n2: { at: 100, upMs: 2_000 }, n3: { at: 110, upMs: 1_800 } }),
    "n3, newest n3",
    "nor in a cluster that is young itself",
  );
});

t.test("when its log is needed, it needn't be fetched from it first", async (t) => {
  const rules = ruleset(2, ids.slice(0, 2));
  t.equal(candidate(rules, { n1: { at: 120, upMs: 300 }, n2: { at: 100, upMs: up } }), "n1, newest n1");
});

t.test("after a start of all, and where nothing is said of it, the newest log counts", async (t) => {
  const rules = ruleset(2);
  t.equal(
    candidate(rules, { n1: { at: 100, upMs: 900 }, n2: { at: 120, upMs: 500 }, n3: { at: 110, upMs: 0 } }),
    "n2, newest n2",
  );
  t.equal(candidate(rules, { n1: { at: 100 }, n2: { at: 120 }, n3: { at: 110 } }), "n2, newest n2");
});
