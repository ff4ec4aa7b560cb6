import t from "tap";
import { type AuditEvent, explainEvent, formatEvent, inputsOf, mergeEvents } from "../src/events.ts";

const event: AuditEvent = {
  id: "o1-ab-1",
  at: "2026-11-21T14:00:00.000Z",
  by: "o1",
  kind: "leader_change",
  row: "leader_silent",
  reason: "nothing heard of n1",
  outcome: "n2 leads term 7",
  ok: true,
  durationMs: 120,
  inputs: {
    rank: 0,
    nodes: {
      n1: { link: "silent", postgres: null, state: null, term: null, promisedTerm: null, hears: null },
      n2: {
        link: "connected",
        postgres: "running",
        state: "follower",
        term: 6,
        promisedTerm: 6,
        hears: "n1: streaming, 1300 ms ago",
      },
    },
  },
};

t.test("what several nodes keep becomes one trail, each event once", async (t) => {
  const later = { ...event, id: "o2-cd-1", at: "2026-11-21T14:00:01.000Z" };
  const merged = mergeEvents([
    [JSON.stringify(later), JSON.stringify(event)],
    [JSON.stringify(event), "half a li", "{}"],
  ]);
  t.same(
    merged.map(({ id }) => id),
    ["o1-ab-1", "o2-cd-1"],
  );
});

t.test("an event in a line, and with all that it was decided from", async (t) => {
  const line = formatEvent(event);
  t.match(
    line,
    /2026-11-21 14:00:00.000 ok +o1 leader_silent: nothing heard of n1 → n2 leads term 7 \(120 ms\) \[o1-ab-1\]/,
  );
  const text = explainEvent(event);
  t.match(text, /rank 0/);
  t.match(text, /n1: silent; never heard/);
  t.match(text, /n2: connected; running follower; term 6, promised 6; hears n1: streaming, 1300 ms ago/);
});

t.test("the inputs are what was seen, not what came later", async (t) => {
  const inputs = inputsOf({ nowMs: 5, nodes: new Map(), rulesets: [], rank: 2, busy: new Set() });
  t.same(inputs, { rank: 2, nodes: {} });
});
