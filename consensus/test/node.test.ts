// The node core step by step: what the scenario files can't reach.

import t from "tap";
import {
  coordinatorId,
  type ExtensionState,
  type FenceReport,
  initialNode,
  lsn,
  type NodeAnswer,
  type NodeEffect,
  type NodeEvent,
  type NodeRequest,
  type NodeState,
  nodeId,
  type Promised,
  type Ruleset,
  rulesetFormat,
  type Stored,
  stepNode,
  term,
} from "../src/index.ts";

const n1 = nodeId("n1");
const c1 = coordinatorId("c1");

function report(atTerm: number, at: number): FenceReport {
  return {
    position: { term: term(atTerm), lsn: lsn(at) },
    commitLsn: lsn(0),
    ruleset: null,
    tailRulesets: [],
  };
}

/** A node whose disk is obedient: promises become durable at once. */
class Node {
  state: NodeState;
  #requests = 0;
  effects: NodeEffect[] = [];

  constructor(promise: Promised | null, incarnation: string | null = null, admitted = true) {
    this.state = initialNode(n1, { promise, incarnation, admitted }, "running");
  }

  feed(event: NodeEvent): readonly NodeEffect[] {
    const step = stepNode(this.state, event);
    this.state = step.state;
    this.effects = [];
    for (const effect of step.effects) {
      if (effect.kind === "persist") {
        this.feed({ kind: "persisted", requestId: effect.requestId, ok: true });
      } else {
        this.effects.push(effect);
      }
    }
    return this.effects;
  }

  ask(request: NodeRequest): string {
    this.#requests += 1;
    const requestId = `r${this.#requests}`;
    this.feed({ kind: "request", requestId, request });
    return requestId;
  }

  get answer(): NodeAnswer | undefined {
    const reply = this.effects.find((effect) => effect.kind === "reply");
    return reply?.kind === "reply" ? reply.answer : undefined;
  }

  /** The next effect in words. */
  get next(): string {
    const [effect] = this.effects;
    switch (effect?.kind) {
      case "control": {
        const { command } = effect;
        return command.cmd === "follow"
          ? `follow ${command.member ? "as a member" : "uncounted"}`
          : command.cmd;
      }
      case "reply":
        return effect.answer.kind === "refused" ? effect.answer.refusal.code : effect.answer.kind;
      default:
        return effect?.kind ?? "nothing";
    }
  }

  controlled(requestId: string, result: (NodeEvent & { kind: "controlled" })["result"]): string {
    this.feed({ kind: "controlled", requestId, result });
    return this.next;
  }

  recruit(inTerm: number, given: FenceReport): string {
    const requestId = this.ask({ kind: "recruit", term: term(inTerm), coordinator: c1, reason: "" });
    return this.controlled(requestId, { ok: true, report: given });
  }
}

function elect(inTerm: number): NodeRequest {
  const ruleset = { version: 1, text: "{}" };
  return { kind: "elect", term: term(inTerm), coordinator: c1, rule: "n1", joint: [], ruleset };
}

t.test("an ex-leader restarts to lead, and leads only with the log that it reported", (t) => {
  const restarted = (): { node: Node; requestId: string } => {
    const node = new Node(null);
    node.recruit(5, report(4, 100));
    const requestId = node.ask(elect(5));
    t.equal(node.next, "elect");
    t.equal(
      node.controlled(requestId, { ok: false, code: "restart_required", message: "" }),
      "restartFenced",
    );
    node.feed({ kind: "postgres", state: "crashed" });
    node.feed({ kind: "postgres", state: "running" });
    node.feed({ kind: "prepared", requestId, ok: true });
    t.equal(node.next, "fence", "it asks again what is there");
    return { node, requestId };
  };
  const same = restarted();
  t.equal(same.node.controlled(same.requestId, { ok: true, report: report(4, 100) }), "elect");
  t.equal(
    same.node.controlled(same.requestId, { ok: true, position: { term: term(5), lsn: lsn(110) } }),
    "position",
  );
  const shorter = restarted();
  t.equal(shorter.node.controlled(shorter.requestId, { ok: true, report: report(4, 90) }), "wrong_state");
  const refused = restarted();
  t.equal(
    refused.node.controlled(refused.requestId, { ok: false, code: "not_consistent", message: "" }),
    "postgres",
  );
  const late = restarted();
  late.node.ask({ kind: "recruit", term: term(6), coordinator: c1, reason: "" });
  t.equal(late.node.controlled(late.requestId, { ok: true, report: report(4, 100) }), "superseded");
  t.end();
});

t.test("nobody begins a term twice, not even after the sidecar and Postgres have started anew", (t) => {
  const node = new Node({ term: term(5), coordinator: c1 });
  t.equal(node.recruit(5, report(5, 120)), "recruited", "the same coordinator may ask again");
  node.ask(elect(5));
  t.equal(node.next, "already_elected", "the log holds a record of that very term");
  const other = new Node({ term: term(5), coordinator: c1 });
  other.ask(elect(5));
  t.equal(other.next, "not_recruited", "what was reported to an earlier run counts no more");
  t.end();
});

const follow: NodeRequest = {
  kind: "follow",
  term: term(3),
  coordinator: c1,
  leader: nodeId("n2"),
  member: true,
};

function named(incarnation: string): Ruleset {
  return {
    version: 1,
    name: "majority",
    cohort: [{ id: n1, zone: "a", region: "", incarnation }],
    leaders: new Map([[n1, { kind: "node", id: n1 }]]),
  };
}

t.test(
  "a new life counts once it knows rules that were in force since it began, and they name no other",
  (t) => {
    const node = new Node(null, "second", false);
    const first = node.ask(follow);
    t.equal(node.next, "follow uncounted", "it knows no rules");
    node.controlled(first, { ok: true });
    for (const [ruleset, fresh] of [
      [null, true],
      [{ ...named("first"), cohort: [] }, false],
      [named("first"), true],
    ] as const) {
      node.feed({ kind: "applied", ruleset, fresh });
      t.equal(node.next, "nothing", "none, perhaps old ones, or those of another life");
    }
    node.feed({ kind: "applied", ruleset: { ...named("first"), cohort: [] }, fresh: true });
    t.equal(node.next, "admit");
    node.feed({ kind: "applied", ruleset: named("second"), fresh: false });
    t.equal(node.next, "admit", "nobody could have named it before it began");
    const early = node.ask(follow);
    t.equal(node.next, "follow uncounted", "not before that is on its disk");
    node.controlled(early, { ok: true });
    node.feed({ kind: "admitted", incarnation: "first" });
    t.equal(node.next, "nothing", "said of an earlier life");
    node.feed({ kind: "admitted", incarnation: "second" });
    t.equal(node.next, "follow as a member", "it was told to, and does so by itself");
    t.end();
  },
);

t.test("who recruited a new life under rules that name it may tell it to count", (t) => {
  const node = new Node(null, "second", false);
  node.ask({ ...follow, counts: "first" });
  t.equal(node.next, "follow uncounted", "another life was recruited");
  const other = new Node(null, "second", false);
  const requestId = other.ask({ ...follow, counts: "second" });
  t.same(
    other.effects.map(({ kind }) => kind),
    ["admit", "control"],
  );
  other.feed({ kind: "admitted", incarnation: "second" });
  t.equal(other.next, "follow as a member", "after the one under way");
  other.controlled(requestId, { ok: true });
  t.end();
});

t.test("it counts from the beginning if nothing was before it, and for good once it does", (t) => {
  const copied = new Node(null, "first");
  copied.feed({ kind: "reborn", incarnation: "second", copied: true });
  copied.ask(follow);
  t.equal(copied.next, "follow uncounted");
  const founder = new Node(null);
  founder.feed({ kind: "reborn", incarnation: "first", copied: false });
  founder.ask(follow);
  t.equal(founder.next, "follow as a member");
  founder.feed({ kind: "applied", ruleset: named("other"), fresh: true });
  t.equal(founder.next, "nothing");
  const legacy = new Node(null);
  legacy.ask(follow);
  t.equal(legacy.next, "follow as a member", "without incarnations nothing is distinguished");
  t.end();
});

t.test(
  "a Postgres that was started anew follows whom it followed, if the promise still is for that term",
  (t) => {
    const promise = { term: term(3), coordinator: c1 };
    const following = { term: term(3), leader: nodeId("n2"), member: true };
    const attached = (state: ExtensionState): NodeEvent => ({
      kind: "attached",
      fenceTerm: term(3),
      state,
      term: term(3),
    });
    const node = new Node(promise);
    node.feed(attached("fenced"));
    t.equal(node.next, "nothing", "nobody told it");
    const requestId = node.ask(follow);
    node.feed(attached("fenced"));
    t.equal(node.next, "nothing", "it is just being told");
    node.controlled(requestId, { ok: true });
    node.feed(attached("follower"));
    t.equal(node.next, "nothing", "an adopted one that follows");
    node.feed(attached("starting"));
    t.equal(node.next, "follow as a member");
    const begun = (stored: Stored): Node => {
      const again = new Node(null);
      again.state = initialNode(n1, stored, "running");
      again.feed(attached("fenced"));
      return again;
    };
    t.equal(
      begun({ promise, following }).next,
      "follow as a member",
      "remembered over a restart of the sidecar",
    );
    t.equal(begun({ promise, following: { ...following, term: term(2) } }).next, "nothing");
    t.equal(begun({ promise: { ...promise, term: term(4) }, following }).next, "fence");
    t.end();
  },
);

t.test("a report carries the incarnation, that of a copy from its beginning", (t) => {
  const node = new Node(null, "first");
  node.recruit(4, report(3, 50));
  t.match(node.answer, { kind: "recruited", report: { incarnation: "first" } });
  const empty = new Node(null);
  empty.feed({ kind: "postgres", state: "absent" });
  const requestId = empty.ask({
    kind: "follow",
    term: term(3),
    coordinator: c1,
    leader: nodeId("n2"),
    member: true,
  });
  t.equal(empty.next, "clone");
  empty.feed({ kind: "reborn", incarnation: "second", copied: true });
  empty.feed({ kind: "postgres", state: "running" });
  empty.feed({ kind: "prepared", requestId, ok: true });
  t.equal(empty.next, "follow uncounted");
  t.equal(empty.state.incarnation, "second");
  t.equal(rulesetFormat, 1);
  t.end();
});

t.test("only a Postgres that answers nobody any more is called down", (t) => {
  for (const [postgres, code] of [
    ["crashed", "postgres_down"],
    ["stopped", "postgres_down"],
    ["failed", "postgres_down"],
    ["stopping", "wrong_state"],
  ] as const) {
    const node = new Node(null);
    node.feed({ kind: "postgres", state: postgres });
    node.ask({ kind: "recruit", term: term(5), coordinator: c1, reason: "" });
    t.equal(node.next, code, postgres);
  }
  t.end();
});
