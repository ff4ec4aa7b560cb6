import { createLogger, poll, Supervised } from "@quorate/common";
import t from "tap";
import { begunNode } from "../src/cluster/begun-node.ts";
import { planNode } from "../src/cluster/membership.ts";
import {
  allPorts,
  contradiction,
  parseBasePort,
  parseNodeCount,
  parseZones,
  planCluster,
} from "../src/cluster/plan.ts";

const base = { cluster: "main", binDir: "/bin" };

t.test("three nodes in three zones, one orchestrator each", async (test) => {
  const plan = planCluster(base);
  test.same(
    plan.nodes.map(({ id, zone, ports }) => [id, zone, ports.postgres]),
    [
      ["n1", "a", 5501],
      ["n2", "b", 5502],
      ["n3", "c", 5503],
    ],
  );
  test.same(
    plan.orchestrators.map(({ id, zone }) => [id, zone]),
    [
      ["o1", "a"],
      ["o2", "b"],
      ["o3", "c"],
    ],
  );
});

t.test("zones are taken in turn, and a zone without a node has no orchestrator", async (test) => {
  const five = planCluster({ ...base, nodes: 5 });
  test.same(
    five.nodes.map(({ zone }) => zone),
    ["a", "b", "c", "a", "b"],
  );
  const two = planCluster({ ...base, nodes: 2 });
  test.same(
    two.orchestrators.map(({ zone }) => zone),
    ["a", "b"],
  );
});

t.test("no port is used twice, however many nodes", async (test) => {
  for (const nodes of [1, 3, 9, 10, 20]) {
    const ports = allPorts(planCluster({ ...base, nodes })).map(({ port }) => port);
    test.equal(new Set(ports).size, ports.length, `${nodes} nodes`);
  }
});

t.test("options that can't be used are refused in words", async (test) => {
  test.throws(() => parseNodeCount("2.5"), { code: "bad_option" });
  test.throws(() => parseNodeCount("-1"), { code: "bad_option" });
  test.throws(() => parseZones("a,b,a"), /named twice/);
  test.throws(() => parseZones(""), /empty name/);
  test.throws(() => parseBasePort("70000"), { code: "bad_option" });
  test.same(parseZones("a, b"), ["a", "b"]);
});

t.test("an existing cluster is only started as it is", async (test) => {
  const plan = planCluster({ ...base, nodes: 3, basePort: 6000 });
  test.equal(contradiction(plan, {}), undefined);
  test.equal(
    contradiction(plan, { nodes: 3, zones: ["a", "b", "c"], policy: "majority", basePort: 6000 }),
    undefined,
  );
  test.match(contradiction(plan, { nodes: 5 }), /3 nodes/);
  test.match(contradiction(plan, { zones: ["x", "y", "z"] }), /zones are a,b,c/);
  test.match(contradiction(plan, { policy: "any-n" }), /policy is majority/);
  test.match(contradiction(plan, { basePort: 7000 }), /base port is 6000/);
});

t.test("a child whose log can't be opened is started all the same", async (test) => {
  const log = createLogger({ name: "test", level: "silent" });
  const spec = { name: "x", args: ["-e", "process.exit(2)"], logFile: "/nonexistent/directory/x.log" };
  const child = new Supervised(spec, { log, fatalCodes: new Set([2]) });
  child.start();
  await poll(() => child.pid === undefined, { what: "it to run and end", timeoutMs: 20_000 });
  test.pass();
});

t.test("a node that is added gets a free name, free ports and the emptiest zone", async (test) => {
  const file = planCluster({ cluster: "c", binDir: "/b", nodes: 4, zones: ["a", "b", "c"], basePort: 5500 });
  const node = planNode({ file }, {});
  test.match(node, { id: "n5", zone: "b", ports: { postgres: 5505, grpc: 5515, http: 5525 } });
  const without = { file: { ...file, nodes: file.nodes.filter(({ id }) => id !== "n2") } };
  test.match(planNode(without, { zone: "z", observer: true }), { id: "n5", zone: "z", observer: true });
  const ports = planNode(without, { id: "n2" }).ports;
  const taken = new Set(without.file.nodes.flatMap((each) => Object.values(each.ports)));
  test.notOk(Object.values(ports).some((port) => taken.has(port)));
  test.throws(() => planNode({ file }, { id: "n2" }), /already/);
  test.throws(() => planNode({ file }, { id: "N!" }), /no node id/);
});

t.test(
  "the node that an interrupted change had begun is gone on with, another one is not taken for it",
  async (test) => {
    const plan = planCluster({ ...base, nodes: 4 });
    const seen = { cohort: new Set(["n1", "n2", "n3"]), followers: new Set(["n2", "n3"]) };
    const everybody = { ...seen, cohort: new Set(["n1", "n2", "n3", "n4"]) };
    const marked = {
      nodes: plan.nodes.map((node) => (node.id === "n4" ? { ...node, adding: true as const } : node)),
    };
    const observer = {
      nodes: plan.nodes.map((node) => (node.id === "n4" ? { ...node, observer: true as const } : node)),
    };
    const begun = (...args: Parameters<typeof begunNode>) => begunNode(...args)?.id;
    test.equal(begun(plan, {}, seen), "n4", "it is not in the cohort yet");
    test.equal(begun(plan, {}, everybody), undefined);
    test.equal(
      begun(marked, {}, everybody),
      "n4",
      "it has got there, but whoever added it never heard of it",
    );
    for (const wish of [{ id: "n5" }, { zone: "c" }, { observer: true }]) {
      test.equal(begun(marked, wish, everybody), undefined, "another wish");
      test.equal(begun(plan, wish, seen), undefined);
    }
    test.equal(begun(marked, { id: "n4", zone: "a" }, everybody), "n4");
    test.equal(begun(plan, {}, { ...seen, cohort: new Set() }), undefined, "nothing is known of any cohort");
    test.equal(begun(observer, { observer: true }, seen), "n4", "an observer that doesn't stream yet");
    const streams = { ...seen, followers: new Set(["n2", "n3", "n4"]) };
    test.equal(begun(observer, { observer: true }, streams), undefined);
  },
);
