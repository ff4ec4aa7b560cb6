import { formatRuleset, type Observed, rankOf, term } from "@quorate/consensus";
import { nodeId } from "@quorate/consensus/types.ts";
import type { NodeStatus, WatchEnd } from "@quorate/proto";
import t from "tap";
import { addressesOf, addressProperties } from "../src/addresses.ts";
import { linkOf, look, noMemory, saysDamaged, type WatchedFacts } from "../src/observe.ts";
import { rulesetFor } from "../src/policy-text.ts";
import { chooseSuccessor } from "../src/successor.ts";
import { followerStatus, leaderStatus, statusOf } from "./statuses.ts";

const members = ["n1", "n2", "n3"].map((id, i) => ({
  id: nodeId(id),
  zone: ["a", "b", "c"][i] ?? "a",
  region: "local",
  properties: addressProperties("10.0.0.1", 5501 + i, 5511 + i),
}));
const ruleset = rulesetFor("majority", members, 2);
const text = { version: 2, text: formatRuleset(ruleset) };

function heard(status: NodeStatus, atMs = 100): WatchedFacts {
  return { reachable: true, sinceMs: 0, heardAtMs: atMs, status, lastEnd: undefined };
}

function lost(status: NodeStatus, reason: WatchEnd["reason"]): WatchedFacts {
  return { reachable: false, sinceMs: 50, heardAtMs: 40, status, lastEnd: { reason, message: "" } };
}

const lookAt = (watched: WatchedFacts[], nowMs = 100, memory = noMemory) =>
  look(memory, { nowMs, watched, zone: "b", busy: new Set() });

t.test("a stream's end becomes a link", async (test) => {
  const status = statusOf("n1");
  test.equal(linkOf(heard(status)), "connected");
  test.equal(linkOf(lost(status, "reset")), "reset");
  test.equal(linkOf(lost(status, "refused")), "reset");
  test.equal(linkOf(lost(status, "closed")), "reset");
  test.equal(linkOf(lost(status, "timeout")), "silent");
  test.equal(linkOf({ ...lost(status, "timeout"), lastEnd: undefined }), "unknown");
});

t.test("the highest version that anybody has applied is in force", async (test) => {
  const old = rulesetFor("majority", members.slice(0, 1), 1);
  const { observation } = lookAt([
    heard(leaderStatus("n1", { ruleset: text })),
    heard(followerStatus("n2", "n1", { ruleset: { version: 1, text: formatRuleset(old) } })),
  ]);
  test.same(
    observation.rulesets.map(({ version }) => version),
    [2],
  );
  test.same(
    addressesOf(observation.rulesets).map(({ grpc }) => grpc),
    ["10.0.0.1:5511", "10.0.0.1:5512", "10.0.0.1:5513"],
  );
});

t.test("a ruleset that can't be read is reported, not taken for none in silence", async (test) => {
  const { observation, unreadable } = lookAt([
    heard(leaderStatus("n1", { ruleset: { version: 9, text: "?" } })),
  ]);
  test.same(observation.rulesets, []);
  test.same(unreadable, ["?"]);
});

t.test("when a promise rose is remembered from look to look", async (test) => {
  const first = lookAt([heard(statusOf("n1", { promisedTerm: term(3) }))], 100);
  const same = lookAt([heard(statusOf("n1", { promisedTerm: term(3) }))], 200, first.memory);
  const risen = lookAt([heard(statusOf("n1", { promisedTerm: term(4) }))], 300, same.memory);
  const roseAt = ({ observation }: typeof first): number | undefined =>
    observation.nodes.get(nodeId("n1"))?.promiseRoseAtMs;
  test.same([first, same, risen].map(roseAt), [100, 100, 300]);
});

t.test("the fresher of two connections to one node counts", async (test) => {
  const { observation } = lookAt([
    lost(statusOf("n1", { state: "fenced" }), "reset"),
    heard(leaderStatus("n1", { ruleset: text })),
  ]);
  test.equal(observation.nodes.get(nodeId("n1"))?.link, "connected");
});

t.test("the orchestrator in the leader's zone acts last", async (test) => {
  const nodes: Observed[] = [
    ...lookAt([heard(leaderStatus("n1", { ruleset: text }))]).observation.nodes.values(),
  ];
  test.same(
    ["a", "b", "c", "elsewhere"].map((zone) => rankOf(zone, [ruleset], nodes)),
    [2, 0, 1, 3],
  );
});

t.test("an operator's change without a name means the most advanced follower", async (test) => {
  const { observation } = lookAt([
    heard(leaderStatus("n1", { ruleset: text })),
    heard(followerStatus("n2", "n1")),
    heard(followerStatus("n3", "n1")),
  ]);
  const flushed = new Map([
    [nodeId("n2"), 10n],
    [nodeId("n3"), 20n],
  ]);
  const leader = nodeId("n1");
  test.equal(chooseSuccessor({ observation, leader, flushed }), "n3");
  test.equal(chooseSuccessor({ observation, leader, flushed, to: "n2" }), "n2");
  test.throws(() => chooseSuccessor({ observation, leader, flushed, to: "n1" }), /leads already/);
  const alone = lookAt([heard(leaderStatus("n1", { ruleset: text }))]).observation;
  test.throws(() => chooseSuccessor({ observation: alone, leader, flushed }), {
    code: "leader_change_failed",
  });
  test.throws(() => chooseSuccessor({ observation: alone, leader, flushed, to: "n2" }), /not in reach/);
});

t.test(
  "what a Postgres says that can't be started from its data, and what it says of other troubles",
  async (t) => {
    const damaged = [
      'exit code 1: could not open directory "pg_notify": No such file or directory',
      'killed by SIGABRT: could not open file "global/pg_control": No such file or directory',
      "exit code 2: could not find the database system",
      "exit code 1: could not locate a valid checkpoint record at 0/1234",
      "exit code 1: invalid page in block 3 of relation base/1/1259",
      "exit code 1: incorrect checksum in control file",
      'exit code 1: "/srv/n1/data" is not a valid data directory',
      "exit code 1: could not access status of transaction 700",
    ];
    const other = [
      null,
      "killed by SIGKILL",
      'exit code 1: could not access file "pg_cron": No such file or directory',
      'exit code 1: could not open file "/srv/x": Permission denied',
      "exit code 1: could not write to file: No space left on device",
      "exit code 1: could not create any TCP/IP sockets",
      'exit code 1: could not load server certificate file "/srv/tls/cert.pem": No such file or directory',
      "exit code 1: could not map anonymous shared memory: Cannot allocate memory",
      'exit code 1: could not open configuration file "/srv/n1/data/pg_hba.conf": No such file or directory',
    ];
    for (const words of damaged) t.equal(saysDamaged(words), true, words);
    for (const words of other) t.equal(saysDamaged(words), false, String(words));
  },
);
