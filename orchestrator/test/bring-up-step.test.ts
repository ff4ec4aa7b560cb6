import { term } from "@quorate/consensus";
import t from "tap";
import { bringUpStep } from "../src/cluster/bring-up-step.ts";
import { absentStatus, followerStatus, leaderStatus, member, statusOf } from "./statuses.ts";

const ids = ["n1", "n2", "n3"];
const all = ["n1", "n2", "n3"];
const ruleset = (version: number) => ({ version, text: "{}" });

t.test("a new cluster, step by step", async (test) => {
  const empty = ids.map(absentStatus);
  test.match(bringUpStep({ ids, statuses: empty, cohort: undefined }), { kind: "bootstrap", node: "n1" });

  const others = empty.slice(1);
  const starting = [statusOf("n1", { postgres: "starting", state: null }), ...others];
  test.match(bringUpStep({ ids, statuses: starting, cohort: undefined }), { kind: "wait" });

  const ready = [statusOf("n1"), ...others];
  test.match(bringUpStep({ ids, statuses: ready, cohort: undefined }), { kind: "elect", node: "n1" });

  const alone = [leaderStatus("n1", { ruleset: ruleset(1) }), ...others];
  test.match(bringUpStep({ ids, statuses: alone, cohort: ["n1"] }), { kind: "follow", nodes: ["n2", "n3"] });

  const cloning = [alone[0] ?? empty[0], ...others.map((s) => ({ ...s, postgres: "cloning" as const }))];
  test.match(bringUpStep({ ids, statuses: cloning.flatMap((s) => s ?? []), cohort: ["n1"] }), {
    kind: "wait",
  });

  const leader = leaderStatus("n1", { ruleset: ruleset(1), followers: [member("n2"), member("n3")] });
  const streaming = [leader, followerStatus("n2", "n1"), followerStatus("n3", "n1")];
  test.match(bringUpStep({ ids, statuses: streaming, cohort: ["n1"] }), {
    kind: "changeRuleset",
    version: 2,
  });

  test.match(bringUpStep({ ids, statuses: streaming, cohort: all }), {
    kind: "done",
    leader: "n1",
    missing: [],
  });
});

t.test("observers are pointed at the leader again, as members, before their acks count", async (test) => {
  const observer = { ...member("n2"), member: false };
  const leader = leaderStatus("n1", { ruleset: ruleset(1), followers: [observer, member("n3")] });
  const statuses = [leader, followerStatus("n2", "n1"), followerStatus("n3", "n1")];
  test.match(bringUpStep({ ids, statuses, cohort: ["n1"] }), { kind: "follow", nodes: ["n2"] });
});

t.test("nothing is bootstrapped while anybody is silent or holds data", async (test) => {
  const silent = [absentStatus("n1"), absentStatus("n2")];
  test.match(bringUpStep({ ids, statuses: silent, cohort: undefined }), { kind: "wait", what: /n3/ });
  const lost = [absentStatus("n1"), statusOf("n2"), statusOf("n3")];
  test.match(bringUpStep({ ids, statuses: lost, cohort: undefined }), { kind: "wait", what: "a leader" });
  const other = [absentStatus("n1"), statusOf("n2"), absentStatus("n3")];
  test.match(bringUpStep({ ids, statuses: other, cohort: undefined }), { kind: "wait", what: "a leader" });
  const stopped = [statusOf("n1"), statusOf("n2"), statusOf("n3")];
  test.match(bringUpStep({ ids, statuses: stopped, cohort: all }), { kind: "wait", what: "a leader" });
});

t.test("a node that an operator stopped is left as it is", async (test) => {
  const leader = leaderStatus("n1", { ruleset: ruleset(2) });
  const stopped = statusOf("n3", { postgres: "stopped", state: null, operatorStopped: true });
  const statuses = [leader, followerStatus("n2", "n1"), stopped];
  test.match(bringUpStep({ ids, statuses, cohort: all }), { kind: "done", missing: ["n3"] });
});

t.test("the leader of the newest term counts", async (test) => {
  const old = leaderStatus("n1", { ruleset: ruleset(2) });
  const now = leaderStatus("n2", { ruleset: ruleset(2), term: term(5) });
  const step = bringUpStep({ ids, statuses: [old, now, followerStatus("n3", "n1")], cohort: all });
  test.match(step, { kind: "wait", what: /n1, n3 to stream from n2/ });
});
