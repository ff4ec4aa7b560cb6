import fc from "fast-check";
import t from "tap";
import {
  canBlock,
  canFulfil,
  commitLsn,
  formatLsn,
  formatRule,
  type Lsn,
  lsn,
  type NodeId,
  nodeId,
  parseLsn,
  parseRule,
  ruleNodes,
} from "../src/index.ts";
import { dumbBlock, dumbCommit, dumbFulfil, groupsOf, powerSet } from "./dumb-rule.ts";
import {
  committedGeneratedPart,
  generatedPart,
  generator,
  parsed,
  randomRule,
  readVectors,
  rewriteVectors,
  type Vector,
} from "./rule-vectors.ts";

function list(text: string): string[] {
  return text === "-" ? [] : text.split(",");
}

function answer({ verb, subject, argument }: Vector): string {
  switch (verb) {
    case "commit": {
      const flushed = new Map<NodeId, Lsn>();
      for (const item of list(argument)) {
        const [id = "", value = ""] = item.split("=");
        flushed.set(nodeId(id), parseLsn(value) ?? lsn(0));
      }
      return formatLsn(commitLsn(parsed(subject), flushed));
    }
    case "fulfil":
      return String(canFulfil(parsed(subject), new Set(list(argument))));
    case "block":
      return String(canBlock(parsed(subject), new Set(list(argument))));
    case "valid":
      return formatRule(parsed(subject));
    case "invalid": {
      const result = parseRule(subject === "-" ? "" : subject);
      return result.ok ? "accepted" : result.reason;
    }
    default:
      return `unknown verb ${verb}`;
  }
}

if (process.env.REWRITE === "1") {
  rewriteVectors();
}

t.test("shared vectors", (t) => {
  const vectors = readVectors();
  t.ok(vectors.length >= 400, `${vectors.length} vectors`);
  for (const vector of vectors) {
    t.equal(
      answer(vector),
      vector.expected,
      `rules.txt:${vector.line} ${vector.verb} ${vector.subject.slice(0, 60)}`,
    );
  }
  t.equal(
    committedGeneratedPart(),
    generatedPart(),
    "the generated part is what the generator gives (REWRITE=1)",
  );
  t.end();
});

t.test("the evaluator agrees with explicit node groups", (t) => {
  const below = generator(7);
  const ids = ["n1", "n2", "n3", "n4", "n5"];
  for (let round = 0; round < 500; round += 1) {
    const rule = randomRule(ids, 3, below);
    const groups = groupsOf(rule);
    for (const set of powerSet(ids)) {
      const nodes = new Set(set);
      if (
        canFulfil(rule, nodes) !== dumbFulfil(groups, nodes) ||
        canBlock(rule, nodes) !== dumbBlock(groups, nodes)
      ) {
        t.fail(`${formatRule(rule)} with ${set}`);
      }
    }
    const flushed = new Map(ids.map((id) => [nodeId(id), lsn(below(9))]));
    if (commitLsn(rule, flushed) !== dumbCommit(groups, flushed)) {
      t.fail(`${formatRule(rule)} commit`);
    }
  }
  t.pass("500 trees, all subsets of five nodes");
  t.end();
});

const seedArbitrary = fc.integer({ min: 0, max: 0x7fff_ffff });

t.test("properties of rules", (t) => {
  const ids = ["n1", "n2", "n3", "n4", "n5", "n6"];
  fc.assert(
    fc.property(seedArbitrary, (seed) => {
      const below = generator(seed);
      const rule = randomRule(ids, 4, below);
      const text = formatRule(rule);
      const again = parseRule(text);
      if (!again.ok || formatRule(again.rule) !== text) {
        return false;
      }
      const set = new Set(ids.filter(() => below(2) === 0));
      const larger = new Set([...set, ids[below(ids.length)] ?? "n1"]);
      const monotone = !canFulfil(rule, set) || canFulfil(rule, larger);
      const everybody = canFulfil(rule, new Set(ids)) && canBlock(rule, new Set(ruleNodes(rule)));
      return monotone && everybody;
    }),
  );
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom("n", "1", "2", "(", ")", ",", "0", "A", " ") }), (text) => {
      const result = parseRule(text);
      return !result.ok || formatRule(result.rule) === text;
    }),
  );
  t.pass("texts round-trip, fulfilling is monotone, everybody fulfils and blocks");
  t.end();
});
