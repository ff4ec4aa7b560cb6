import { readFileSync } from "node:fs";
import t from "tap";
import {
  type CohortNode,
  checkRuleset,
  compilePolicy,
  explainRuleset,
  findPolicy,
  formatExplanation,
  formatRule,
  formatRuleset,
  nodeId,
  type Policy,
  parseRuleset,
  policyFromModule,
  type Ruleset,
} from "../src/index.ts";

function nodesIn(zones: string): CohortNode[] {
  return [...zones].map((zone, index) => ({
    id: nodeId(`n${index + 1}`),
    zone,
    region: zone < "c" ? "x" : "y",
  }));
}

function compile(name: string, zones: string, options: Record<string, unknown> = {}): Ruleset | string {
  const policy = findPolicy(name);
  if (policy === undefined) {
    return "unknown";
  }
  const compiled = compilePolicy({ policy, nodes: nodesIn(zones), options, version: 1 });
  return compiled.ok ? compiled.ruleset : compiled.refusals.map(({ message }) => message).join("; ");
}

function rules(name: string, zones: string, options: Record<string, unknown> = {}): string {
  const compiled = compile(name, zones, options);
  if (typeof compiled === "string") {
    return compiled;
  }
  return [...compiled.leaders].map(([id, rule]) => `${id}=${formatRule(rule)}`).join(" ");
}

t.test("built-in policies", (t) => {
  t.equal(rules("majority", "a"), "n1=n1");
  t.equal(rules("majority", "abc"), "n1=2(n1,n2,n3) n2=2(n1,n2,n3) n3=2(n1,n2,n3)");
  t.equal(rules("majority", "abc", { ineligible: ["n3"] }), "n1=2(n1,n2,n3) n2=2(n1,n2,n3)");
  t.equal(rules("any-n", "abc"), "n1=2(n1,1(n2,n3)) n2=2(n2,1(n1,n3)) n3=2(n3,1(n1,n2))");
  t.equal(rules("any-n", "ab", { n: 2 }), "any-n with n = 2 needs at least 3 nodes, there are 2");
  t.equal(rules("cross-zone", "aab"), "n1=2(n1,n3) n2=2(n2,n3) n3=2(n3,1(n1,n2))");
  t.match(rules("cross-zone", "aa"), /no node outside of zone "a" of n1/);
  t.equal(
    rules("two-zones", "aabb"),
    ["n1", "n2", "n3", "n4"].map((id) => `${id}=2(1(n1,n2),1(n3,n4))`).join(" "),
  );
  t.equal(rules("cross-region", "ac"), "n1=2(n1,n2) n2=2(n2,n1)");
  t.equal(
    rules("explicit", "abcabc", { leaders: { n1: "2(n2,n3)", n4: "1(n5,n6)" } }),
    "n1=2(n2,n3) n4=1(n5,n6)",
  );
  t.match(rules("explicit", "ab", { leaders: { n1: "n7" } }), /names n7, not in the cohort/);
  t.match(rules("explicit", "ab", { leaders: {} }), /no node of the cohort may lead/);
  t.match(rules("explicit", "ab", { leaders: { n1: "2(n1)" } }), /threshold 2 of 1/);
  t.match(rules("majority", "ab", { ineligible: ["n9"] }), /names n9, which is no node/);
  t.end();
});

t.test("a policy must be pure", (t) => {
  let calls = 0;
  const moody: Policy = {
    name: "moody",
    summary: "",
    compile: (nodes) => {
      calls += 1;
      return { leaders: { n1: `${1 + (calls % 2)}(${nodes.map(({ id }) => id).join(",")})` } };
    },
  };
  const nodes = nodesIn("ab");
  const compiled = compilePolicy({ policy: moody, nodes, version: 1 });
  t.same(compiled.ok ? [] : compiled.refusals.map(({ code }) => code), ["policy_impure"]);
  const vandal: Policy = {
    name: "vandal",
    summary: "",
    compile: (given) => {
      (given as CohortNode[]).pop();
      return { leaders: { n1: "n1" } };
    },
  };
  const refused = compilePolicy({ policy: vandal, nodes, version: 1 });
  t.same(
    refused.ok ? [] : refused.refusals.map(({ code }) => code),
    ["policy_refused"],
    "its input is frozen",
  );
  t.equal(nodes.length, 2);
  const user = policyFromModule(
    { name: "mine", compile: () => ({ leaders: { n2: "2(n1,n2)" } }) },
    "mine.ts",
  );
  t.ok("compile" in user && compilePolicy({ policy: user, nodes, version: 3 }).ok);
  for (const junk of [
    7,
    null,
    {},
    { kind: "node" },
    { kind: "atLeast", k: 1.5, rules: [] },
    { kind: "atLeast", k: 1, rules: [{}] },
  ]) {
    const odd = policyFromModule({ compile: () => ({ leaders: { n1: junk } }) }, "odd.ts");
    const result = "compile" in odd ? compilePolicy({ policy: odd, nodes, version: 1 }) : null;
    t.match(result, { ok: false, refusals: [{ code: "policy_result" }] }, JSON.stringify(junk));
  }
  t.match(policyFromModule({}, "empty.ts"), { code: "unknown_policy" });
  t.end();
});

t.test("rulesets travel as text and are checked when they arrive", (t) => {
  const ruleset = compile("two-zones", "abcabc");
  if (typeof ruleset === "string") {
    throw new Error(ruleset);
  }
  const again = parseRuleset(formatRuleset(ruleset));
  t.equal(again.ok && formatRuleset(again.ruleset), formatRuleset(ruleset));
  const shuffled = {
    ...ruleset,
    cohort: [...ruleset.cohort].reverse(),
    leaders: new Map([...ruleset.leaders].reverse()),
  };
  t.equal(formatRuleset(shuffled), formatRuleset(ruleset), "canonical");
  const codes = (text: string): string[] => {
    const checked = parseRuleset(text);
    return checked.ok ? [] : checked.refusals.map(({ code }) => code);
  };
  t.same(codes("{"), ["not_json"]);
  t.same(codes("[]"), ["bad_shape"]);
  const bad = { version: 1, name: "x", cohort: [{ id: "n1", zone: "a", region: "" }], leaders: { n1: "n1" } };
  t.same(codes(JSON.stringify(bad)), []);
  t.same(codes(JSON.stringify({ ...bad, version: 0 })), ["bad_version"]);
  t.same(codes(JSON.stringify({ ...bad, cohort: [{ id: "N1", zone: "a" }] })), [
    "bad_node",
    "leader_not_in_cohort",
    "unknown_node_in_rule",
  ]);
  t.same(codes(JSON.stringify({ ...bad, cohort: [...bad.cohort, ...bad.cohort] })), ["duplicate_node"]);
  t.same(codes(JSON.stringify({ ...bad, leaders: { n2: "n1" } })), ["leader_not_in_cohort"]);
  t.same(codes(JSON.stringify({ ...bad, leaders: { n1: "1(n1,n2)" } })), ["unknown_node_in_rule"]);
  t.same(codes(JSON.stringify({ ...bad, leaders: {} })), ["no_leader"]);
  t.same(
    checkRuleset({ ...ruleset, cohort: [] })
      .map(({ code }) => code)
      .slice(0, 1),
    ["empty_cohort"],
  );
  t.end();
});

t.test("texts of rulesets", (t) => {
  const lines = readFileSync(new URL("../testdata/rulesets.txt", import.meta.url), "utf8").split("\n");
  let seen = 0;
  for (const line of lines.filter((each) => each !== "" && !each.startsWith("#"))) {
    seen += 1;
    const [verdict, ...rest] = line.split(" ");
    const text = rest.slice(verdict === "valid" ? 0 : 1).join(" ");
    const [given = "", canonical = given] = text.split(" -> ");
    const checked = parseRuleset(given);
    if (verdict === "valid") {
      t.equal(checked.ok && formatRuleset(checked.ruleset), canonical, given);
    } else {
      t.equal(!checked.ok && checked.refusals[0]?.code, rest[0], given);
    }
  }
  t.ok(seen >= 15);
  t.end();
});

t.test("explain: what an operator buys", (t) => {
  const explain = (name: string, zones: string, options: Record<string, unknown> = {}): string[] => {
    const ruleset = compile(name, zones, options);
    return typeof ruleset === "string" ? [ruleset] : formatExplanation(explainRuleset(ruleset));
  };
  t.matchOnly(explain("majority", "abc"), [
    "policy majority, 3 nodes: n1, n2, n3",
    /^n1 as leader: durable when 2\(n1,n2,n3\) have it, on at least 2 nodes$/,
    "  writes go on after the loss of any 1 node; too much: {n2, n3}",
    /^n2 as leader/,
    /^ {2}writes go on/,
    /^n3 as leader/,
    /^ {2}writes go on/,
    "a leader can be appointed after the loss of any 1 node; too much: {n1, n2} {n1, n3} {n2, n3}",
    "without zone a: n2, n3 could write; a leader can be appointed",
    "without zone b: n1, n3 could write; a leader can be appointed",
    "without zone c: n1, n2 could write; a leader can be appointed",
  ]);
  const local = explain("explicit", "aab", { leaders: { n1: "2(n1,n2)", n3: "n3" } });
  t.ok(
    local.some((line) =>
      line.startsWith("WARNING durable, but not discoverable if zone a is cut off: n1 could"),
    ),
    local.join("\n"),
  );
  const single = explain("explicit", "abc", { leaders: { n1: "n1" } });
  t.ok(single.some((line) => line.startsWith("WARNING not durable: under n1")));
  t.ok(single.some((line) => line.startsWith("WARNING only n1 may lead")));
  const twenty = explainRuleset(compile("majority", "abcabcabcabcabcabcab") as Ruleset);
  t.equal(twenty.leaders[0]?.copies, 11);
  t.equal(twenty.leaders[0]?.writes.any, 9);
  t.equal(twenty.failover.exact, false);
  t.end();
});
