// What a coordinator may conclude from the newest claim to leadership.

import t from "tap";
import {
  claimOf,
  type ExtensionState,
  type Link,
  type NodeView,
  nodeId,
  type Observation,
  type PostgresState,
  term,
} from "../src/index.ts";

const id = nodeId("n1");

function seen(view: Partial<NodeView>, link: Link = "connected"): Observation {
  const base: NodeView = {
    postgres: "running",
    state: "leader",
    term: term(7),
    promisedTerm: term(7),
    inRecovery: false,
    leader: id,
    receiver: null,
    followers: [],
    ruleset: null,
    wasLeader: false,
    operatorStopped: false,
  };
  const observed = {
    id,
    link,
    linkSinceMs: 0,
    view: { ...base, ...view },
    viewAtMs: 0,
    promiseRoseAtMs: 0,
  };
  return { nowMs: 0, nodes: new Map([[id, observed]]), rulesets: [], rank: 0, busy: new Set() };
}

function ended(postgres: PostgresState, state: ExtensionState, link?: Link): boolean | undefined {
  return claimOf(seen({ postgres, state, wasLeader: true }, link))?.ended;
}

t.test("nobody claims to lead, or ever has", (t) => {
  t.equal(claimOf(seen({ state: "follower" })), null);
  t.end();
});

t.test("a leader that leads, or may, has not ended", (t) => {
  t.strictSame(claimOf(seen({})), { node: id, term: term(7), ended: false });
  t.equal(claimOf(seen({ state: "elected" }))?.ended, false);
  t.equal(claimOf(seen({ state: "candidate" }))?.ended, false);
  t.end();
});

t.test("it has ended when its sidecar says that there is no such Postgres any more", (t) => {
  for (const postgres of ["absent", "stopped", "crashed", "failed"] as const) {
    t.equal(ended(postgres, ""), true, postgres);
  }
  t.end();
});

t.test("it has ended when the extension itself speaks of something else", (t) => {
  for (const state of ["fenced", "follower", "fetching", "starting"] as const) {
    t.equal(ended("running", state), true, state);
  }
  t.end();
});

t.test("a Postgres of which the sidecar knows nothing may still lead", (t) => {
  t.equal(ended("starting", ""), false, "adopted, or its control connection was lost");
  t.equal(ended("running", ""), false);
  t.equal(ended("stopping", ""), false, "its sessions may still be answered");
  t.equal(ended("running", "stopping"), false);
  t.equal(ended("stopping", "stopping"), false);
  t.end();
});

t.test("old news are no news", (t) => {
  for (const link of ["reset", "silent", "unknown"] as const) {
    t.equal(ended("crashed", "", link), false, link);
    t.equal(ended("running", "fenced", link), false, link);
  }
  t.end();
});
