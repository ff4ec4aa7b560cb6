// Every cohort of up to five nodes with every threshold tree up to a bound, and mixed rulesets, against explicit
// sets of nodes: any two valid recruitments share a node; what a leader could have made durable is seen by every
// valid recruitment; and `judge` says exactly what the explicit sets say.

import t from "tap";
import {
  atLeast,
  formatRule,
  judge,
  lsn,
  type NodeId,
  node,
  nodeId,
  noPosition,
  type Report,
  type Rule,
  type Ruleset,
  term,
} from "../src/index.ts";
import { dumbBlock, dumbFulfil, type Groups, groupsOf, powerSet, subsets } from "./dumb-rule.ts";
import { generator, randomRule } from "./rule-vectors.ts";

/** All trees of up to two levels: k of any subset, and k of two such thresholds over different children. */
function treesOver(ids: readonly NodeId[]): Rule[] {
  const flat: Rule[] = ids.map(node);
  for (let size = 2; size <= ids.length; size += 1) {
    for (const chosen of subsets(ids, size)) {
      for (let k = 1; k <= size; k += 1) {
        flat.push(atLeast(k, chosen.map(node)));
      }
    }
  }
  return flat;
}

function nestedOver(ids: readonly NodeId[]): Rule[] {
  const pairs = subsets(ids, 2).map((chosen) => chosen.map(node));
  const inner = pairs.flatMap((pair) => [atLeast(1, pair), atLeast(2, pair)]);
  return subsets(inner, 2).flatMap((two) => [atLeast(1, two), atLeast(2, two)]);
}

interface DumbRuleset {
  readonly leaders: readonly { readonly id: NodeId; readonly groups: Groups }[];
}

function dumbOf(ruleset: Ruleset): DumbRuleset {
  return { leaders: [...ruleset.leaders].map(([id, rule]) => ({ id, groups: groupsOf(rule) })) };
}

function dumbValid(rulesets: readonly DumbRuleset[], set: ReadonlySet<string>): boolean {
  const revoked = rulesets.every(({ leaders }) =>
    leaders.every(({ id, groups }) => set.has(id) || dumbBlock(groups, set)),
  );
  const [first] = rulesets;
  const candidate = first?.leaders.some(
    ({ id }) =>
      set.has(id) &&
      rulesets.every(({ leaders }) =>
        leaders.some((leader) => leader.id === id && dumbFulfil(leader.groups, set)),
      ),
  );
  return revoked && candidate === true;
}

function reportsOf(rulesets: readonly Ruleset[], set: readonly NodeId[]): Map<NodeId, Report> {
  const [ruleset = null, ...tailRulesets] = rulesets;
  const position = { term: term(1), lsn: lsn(1) };
  return new Map(set.map((id) => [id, { node: id, position, commitLsn: lsn(0), ruleset, tailRulesets }]));
}

function rulesetOf(
  ids: readonly NodeId[],
  leaders: readonly (readonly [NodeId, Rule])[],
  version = 1,
): Ruleset {
  return {
    version,
    name: "small",
    cohort: ids.map((id) => ({ id, zone: "a", region: "" })),
    leaders: new Map(leaders),
  };
}

interface Counted {
  rulesets: number;
  valid: number;
  problems: string[];
}

function examine(ids: readonly NodeId[], rulesets: readonly Ruleset[], counted: Counted): void {
  const dumb = rulesets.map(dumbOf);
  const sets = powerSet(ids);
  const valid: ReadonlySet<string>[] = [];
  const describe = (): string =>
    rulesets
      .map(({ leaders }) => [...leaders].map(([id, rule]) => `${id}=${formatRule(rule)}`).join(" "))
      .join(" | ");
  for (const set of sets) {
    const expected = dumbValid(dumb, new Set(set));
    const verdict = judge({ reports: reportsOf(rulesets, set) });
    if (verdict.ok !== expected) {
      counted.problems.push(`judge says ${verdict.ok} for ${set} under ${describe()}`);
    }
    if (expected) {
      valid.push(new Set<string>(set));
    }
  }
  counted.rulesets += 1;
  counted.valid += valid.length;
  for (const [index, a] of valid.entries()) {
    for (const b of valid.slice(index + 1)) {
      if (![...a].some((id) => b.has(id))) {
        counted.problems.push(`${[...a]} and ${[...b]} are both valid under ${describe()}`);
      }
    }
  }
  // Durable under a leader: on all nodes of one of its groups, and on the leader, which sends only what it has.
  for (const { leaders } of dumb) {
    for (const { id, groups } of leaders) {
      for (const group of groups) {
        const holders = new Set([...group, id as string]);
        for (const set of valid) {
          if (![...set].some((member) => holders.has(member))) {
            counted.problems.push(`${[...set]} misses what ${id} has on ${[...group]} under ${describe()}`);
          }
        }
      }
    }
  }
}

const names = ["n1", "n2", "n3", "n4", "n5"].map(nodeId);

t.test("one leader rule for all, every flat and nested tree", (t) => {
  const counted: Counted = { rulesets: 0, valid: 0, problems: [] };
  for (let size = 1; size <= 5; size += 1) {
    const ids = names.slice(0, size);
    const trees = [...treesOver(ids), ...(size <= 4 ? nestedOver(ids) : [])];
    for (const rule of trees) {
      examine(
        ids,
        [
          rulesetOf(
            ids,
            ids.map((id) => [id, rule] as const),
          ),
        ],
        counted,
      );
    }
  }
  t.same(counted.problems.slice(0, 5), []);
  t.ok(counted.valid > 1_000, `${counted.rulesets} rulesets, ${counted.valid} valid recruitments`);
  t.end();
});

t.test("two leaders, every pair of flat trees over up to four nodes", (t) => {
  const counted: Counted = { rulesets: 0, valid: 0, problems: [] };
  for (let size = 2; size <= 4; size += 1) {
    const ids = names.slice(0, size);
    const [first, second] = ids;
    for (const one of treesOver(ids)) {
      for (const two of treesOver(ids)) {
        if (first !== undefined && second !== undefined) {
          const leaders = [[first, one] as const, [second, two] as const];
          examine(ids, [rulesetOf(ids, leaders)], counted);
        }
      }
    }
  }
  t.same(counted.problems.slice(0, 5), []);
  t.ok(counted.valid > 1_000, `${counted.rulesets} rulesets, ${counted.valid} valid recruitments`);
  t.end();
});

t.test("two rulesets at once, random trees over five nodes", (t) => {
  const counted: Counted = { rulesets: 0, valid: 0, problems: [] };
  const below = generator(99);
  for (let round = 0; round < 1_500; round += 1) {
    const make = (version: number): Ruleset => {
      const leaders = names
        .filter(() => below(3) > 0)
        .map((id) => [id, randomRule(names, 3, below)] as const);
      const some = leaders.length > 0 ? leaders : [[nodeId("n1"), randomRule(names, 3, below)] as const];
      return rulesetOf(names, some, version);
    };
    examine(names, [make(1), make(2)], counted);
  }
  t.same(counted.problems.slice(0, 5), []);
  t.ok(counted.valid > 1_000, `${counted.rulesets} pairs, ${counted.valid} valid recruitments`);
  t.end();
});

t.test("an empty report list and a blank cluster are refused", (t) => {
  const nothing = judge({ reports: new Map() });
  t.equal(nothing.ok, false);
  const blank: Report = {
    node: nodeId("n1"),
    position: noPosition,
    commitLsn: lsn(0),
    ruleset: null,
    tailRulesets: [],
  };
  const verdict = judge({ reports: new Map([[blank.node, blank]]) });
  t.same(verdict.ok ? [] : verdict.shortages, [{ kind: "no_ruleset" }]);
  t.end();
});
