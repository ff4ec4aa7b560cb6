// A user's own policy: found by its path, and refused when it depends on anything but the nodes and its options.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { formatRule } from "@quorate/consensus";
import t from "tap";
import { parseCohort } from "../src/cli/explain.ts";
import { absolutePolicy, policyPath, undisturbed } from "../src/policy-module.ts";
import { knownPolicies, rulesetFor } from "../src/policy-text.ts";

const directory = mkdtempSync(path.join(tmpdir(), "quorate-policy-"));
t.teardown(() => rmSync(directory, { recursive: true }));

const nodes = parseCohort("n1=frankfurt/a,n2=frankfurt/b,n3=paris/c");

function write(name: string, text: string): string {
  const file = path.join(directory, name);
  writeFileSync(file, text);
  return file;
}

function refusal(name: string, text: string): string {
  const file = write(name, text);
  try {
    return `accepted: ${rulesetFor(file, nodes, 1).name}`;
  } catch (error) {
    return (error as Error).message;
  }
}

t.test("a module with its options", (t) => {
  const file = write(
    "local.mjs",
    `export const name = "local";
     export function compile(nodes, options) {
       const here = nodes.filter((node) => node.region === options.region).map((node) => node.id);
       return { leaders: Object.fromEntries(here.map((id) => [id, \`\${options.k}(\${here.join(",")})\`])) };
     }`,
  );
  const ruleset = rulesetFor(`${file}:region=frankfurt,k=2`, nodes, 1);
  t.equal(ruleset.name, "local");
  t.same(ruleset.options, { region: "frankfurt", k: 2 });
  t.same(
    [...ruleset.leaders].map(([id, rule]) => `${id}=${formatRule(rule)}`),
    ["n1=2(n1,n2)", "n2=2(n1,n2)"],
  );
  t.match(
    knownPolicies(["majority", `${file}:k=1`]).map(({ name }) => name),
    ["majority", "local"].slice(0, 1),
  );
  t.ok(knownPolicies([file]).some(({ name }) => name === "local"));
  t.end();
});

// In a process of its own: the hooks of the test runner load TypeScript in another way.
t.test("a module in TypeScript, by the command line", (t) => {
  const file = write(
    "typed.ts",
    `export const name = "typed";
     export function compile(nodes: readonly { id: string }[]) {
       const ids = nodes.map((node) => node.id);
       return { leaders: Object.fromEntries(ids.map((id) => [id, \`2(\${ids.join(",")})\`])) };
     }`,
  );
  const program = path.join(import.meta.dirname, "../src/main.ts");
  const { NODE_OPTIONS: _, ...env } = process.env;
  const output = execFileSync(
    process.execPath,
    [program, "policy", "explain", file, "--cohort", "n1=frankfurt/a,n2=frankfurt/b,n3=paris/c", "--json"],
    { env, encoding: "utf8" },
  );
  t.match(output, /"typed"/);
  t.match(output, /2\(n1,n2,n3\)/);
  t.end();
});

t.test("paths and names are told apart; relative paths become absolute", (t) => {
  t.equal(policyPath("any-n:n=2"), null);
  t.equal(policyPath("majority"), null);
  t.same(policyPath("./mine.ts"), { path: "./mine.ts", options: undefined });
  t.same(policyPath('mine.mjs:{"a":1}'), { path: "mine.mjs", options: '{"a":1}' });
  t.equal(absolutePolicy("mine.mjs:n=2", "/srv"), "/srv/mine.mjs:n=2");
  t.equal(absolutePolicy("any-n:n=2", "/srv"), "any-n:n=2");
  t.end();
});

t.test("what is not pure, or no policy, is refused and leaves nothing behind", (t) => {
  const body = (statement: string): string =>
    `export function compile(nodes) { ${statement}; return { leaders: { n1: "n1" } }; }`;
  t.match(refusal("clock.mjs", body("Date.now()")), /asks for the time/);
  t.match(refusal("new-date.mjs", body("new Date()")), /asks for the time/);
  t.match(refusal("chance.mjs", body("try { Math.random() } catch {}")), /asks for chance/, "even in secret");
  t.match(refusal("env.mjs", body("process.env.HOME")), /asks for the environment/);
  t.match(refusal("later.mjs", body("setTimeout(() => {}, 1)")), /asks for timers/);
  t.match(refusal("import.mjs", `const x = Math.random();\n${body("")}`), /can't be loaded.*asks for chance/);
  t.match(refusal("global.mjs", body("globalThis.seen = 1")), /changes the global object \(seen\)/);
  t.notOk("seen" in globalThis);
  t.match(refusal("proto.mjs", body("Array.prototype.last = 1")), /changes Array.prototype \(last\)/);
  t.notOk("last" in Array.prototype);
  t.match(refusal("promise.mjs", "export async function compile() { return {}; }"), /answers with a promise/);
  t.match(refusal("input.mjs", body("nodes.push(1)")), /not extensible/);
  const moody =
    'let n = 0;\nexport function compile() { n += 1; return { leaders: { n1: n % 2 ? "n1" : "n2" } }; }';
  t.match(refusal("moody.mjs", moody), /two different rulesets/);
  t.match(refusal("none.mjs", "export const name = 1;"), /exports no function "compile"/);
  t.match(refusal("syntax.mjs", "export function ("), /can't be loaded/);
  t.match(refusal("throws.mjs", body("throw new Error('only in spring')")), /only in spring/);
  t.throws(() => rulesetFor(path.join(directory, "nowhere.ts"), nodes, 1), /there is no such file/);
  t.ok(Date.now() > 0 && Math.random() < 1 && process.env !== undefined, "everything was put back");
  t.equal(
    undisturbed(() => 7),
    7,
  );
  t.end();
});

t.test("--cohort", (t) => {
  t.same(parseCohort("n1=a"), [{ id: "n1", zone: "a", region: "" }]);
  t.throws(() => parseCohort("n1=a,n2"), /"n2" is no node/);
  t.throws(() => parseCohort("N1=a"), /is no node/);
  t.throws(() => parseCohort("n1=a,n1=b"), /n1 is named twice/);
  t.end();
});
