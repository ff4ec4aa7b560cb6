/** Shares of a Postgres's connections: the budget is never exceeded, whatever gateways do and messages get lost. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { ConnectionBudget } from "../src/budget/connection-budget.ts";
import { LeaseFile } from "../src/budget/lease-file.ts";
import {
  keptForNewcomers,
  type LeaseTable,
  leaseMs,
  newLeaseTable,
  renew,
} from "../src/budget/lease-table.ts";
import { fairShares } from "../src/budget/shares.ts";

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

t.test("shares are fair", async (test) => {
  test.same(fairShares(10, [2, 20, 20]), [2, 4, 4]);
  test.same(fairShares(100, [2, 20, 20]), [2, 20, 20]);
  test.same(fairShares(2, [5, 5, 5]), [0, 1, 1]);
  test.same(fairShares(5, []), []);
  const wishes = fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 20 });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 500 }), wishes, (budget, wants) => {
      const shares = fairShares(budget, wants);
      const given = sum(shares);
      // Nobody gets more than he wants, all of what is wanted is given if there is enough, all that there is otherwise.
      return (
        shares.every((share, at) => share >= 0 && share <= (wants[at] as number)) &&
        given === Math.min(budget, sum(wants)) &&
        // Who gets less than he wants gets no less than anybody else, but for the part that can't be divided.
        shares.every((share, at) => share === wants[at] || shares.every((other) => other <= share + 1))
      );
    }),
  );
});

/** A gateway as leases.ts makes it: it obeys the last answer that it read, until that expires. */
class FakeGateway {
  readonly holder: string;
  share = 0;
  expiresAtMs = 0;
  open = 0;
  wants = 0;
  alive = true;

  constructor(holder: string) {
    this.holder = holder;
  }

  limit(nowMs: number): number {
    return nowMs < this.expiresAtMs ? this.share : 0;
  }

  /** As many as it may, in place of those that it has use for. */
  openAll(nowMs: number): void {
    const limit = this.limit(nowMs);
    if (this.open < this.wants) this.open = Math.max(this.open, Math.min(this.wants, limit));
  }
}

type Step =
  | { readonly kind: "wish"; readonly who: number; readonly wants: number }
  | { readonly kind: "renew"; readonly who: number; readonly lost: boolean; readonly late: boolean }
  /** Transactions end: what is too much is closed. */
  | { readonly kind: "finish"; readonly who: number; readonly count: number }
  | { readonly kind: "wait"; readonly ms: number }
  | { readonly kind: "die"; readonly who: number }
  | { readonly kind: "restart" };

const who = fc.integer({ min: 0, max: 4 });
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("wish" as const), who, wants: fc.nat(120) }) },
    {
      weight: 8,
      arbitrary: fc.record({
        kind: fc.constant("renew" as const),
        who,
        lost: fc.boolean(),
        late: fc.boolean(),
      }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("finish" as const), who, count: fc.nat(60) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("wait" as const), ms: fc.nat(leaseMs) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("die" as const), who }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("restart" as const) }) },
  ),
  { maxLength: 120 },
);

type Rules = { readonly renew: typeof renew; readonly fresh: (nowMs: number) => LeaseTable };

/** The most connections that all gateways together ever had; those of an expired lease end with it. */
function mostOpen(budget: number, run: readonly Step[], rules: Rules): number {
  let nowMs = 1_000_000;
  let table = newLeaseTable(nowMs - leaseMs);
  let next = 5;
  const gateways = Array.from({ length: 5 }, (_, at) => new FakeGateway(`g${at}`));
  let most = 0;
  for (const step of run) {
    switch (step.kind) {
      case "wish":
        (gateways[step.who] as FakeGateway).wants = step.wants;
        break;
      case "renew": {
        const gateway = gateways[step.who] as FakeGateway;
        const { holder, open, wants } = gateway;
        const askedAtMs = nowMs;
        table = rules.renew(table, { holder, obeys: gateway.limit(nowMs), open, wants }, budget, nowMs);
        // Until the answer is read, the old share holds.
        if (step.late) gateway.openAll(nowMs);
        if (step.lost) break;
        gateway.share = table.holders.get(holder)?.share ?? 0;
        gateway.expiresAtMs = askedAtMs + leaseMs;
        break;
      }
      case "finish": {
        const gateway = gateways[step.who] as FakeGateway;
        const kept = Math.min(gateway.wants, gateway.limit(nowMs));
        gateway.open -= Math.min(step.count, Math.max(0, gateway.open - kept));
        break;
      }
      case "wait":
        nowMs += step.ms;
        break;
      case "die":
        gateways[step.who] = new FakeGateway(`g${next++}`);
        break;
      case "restart":
        table = rules.fresh(nowMs);
        break;
    }
    for (const gateway of gateways) {
      if (nowMs >= gateway.expiresAtMs) gateway.open = 0;
      gateway.openAll(nowMs);
    }
    most = Math.max(most, sum(gateways.map(({ open }) => open)));
  }
  return most;
}

const budgets = fc.integer({ min: 0, max: 100 });
const rules: Rules = { renew, fresh: newLeaseTable };

t.test("all gateways together never have more than the budget", async (test) => {
  fc.assert(
    fc.property(budgets, steps, (budget, run) => mostOpen(budget, run, rules) <= budget),
    { numRuns: 2_000 },
  );
  test.pass("2,000 random histories");
});

const wish = (who: number, wants: number): Step => ({ kind: "wish", who, wants });
const asks = (who: number, lost = false): Step => ({ kind: "renew", who, lost, late: false });

type Control = { readonly without: string; readonly rules: Rules; readonly history: readonly Step[] };

const controls: readonly Control[] = [
  {
    without: "counting what a gateway obeys until it has read the answer",
    rules: {
      ...rules,
      renew(table, renewal, budget, nowMs) {
        const made = renew(table, renewal, budget, nowMs);
        const own = made.holders.get(renewal.holder);
        if (own === undefined) return made;
        const holders = new Map(made.holders).set(renewal.holder, { ...own, held: own.share });
        return { ...made, holders };
      },
    },
    history: [
      wish(0, 80),
      asks(0),
      wish(0, 2),
      { kind: "finish", who: 0, count: 78 },
      asks(0, true),
      wish(1, 80),
      asks(1),
      wish(0, 80),
    ],
  },
  {
    without: "caution after a restart of the sidecar",
    rules: { ...rules, fresh: (nowMs) => newLeaseTable(nowMs - leaseMs) },
    history: [wish(0, 80), asks(0), { kind: "restart" }, wish(1, 80), asks(1)],
  },
  {
    without: "regard for others",
    rules: {
      ...rules,
      renew(table, renewal, budget, nowMs) {
        const made = renew(table, renewal, budget, nowMs);
        const own = made.holders.get(renewal.holder);
        if (own === undefined) return made;
        const holders = new Map(made.holders).set(renewal.holder, { ...own, share: renewal.wants });
        return { ...made, holders };
      },
    },
    history: [wish(0, 80), asks(0), wish(1, 80), asks(1)],
  },
];

for (const { without, rules: broken, history } of controls) {
  t.test(`control: without ${without} the same history has more`, async (test) => {
    test.ok(mostOpen(80, history, rules) <= 80);
    test.ok(mostOpen(80, history, broken) > 80);
  });
}

t.test("shares follow demand, and a dead gateway's share comes back when its lease expires", async (test) => {
  let nowMs = 0;
  let table = newLeaseTable(-leaseMs);
  const held = new Map<string, number>();
  const ask = (holder: string, wants: number): number => {
    const obeys = held.get(holder) ?? 0;
    table = renew(table, { holder, obeys, open: obeys, wants }, 80, nowMs);
    const share = table.holders.get(holder)?.share ?? 0;
    held.set(holder, share);
    return share;
  };
  const spare = keptForNewcomers(80);
  test.equal(ask("a", 200), 80 - spare, "alone it gets all but a few");
  test.equal(ask("b", 200), spare, "who comes begins with those at once");
  for (let round = 0; round < 4; round++) {
    nowMs += 1_000;
    for (const each of ["a", "b"]) ask(each, 200);
  }
  test.ok(Math.abs((held.get("a") ?? 0) - (held.get("b") ?? 0)) <= spare, "then both have the same");
  for (let round = 0; round < 4; round++) {
    nowMs += 1_000;
    ask("a", 4);
    held.set("a", Math.min(4, held.get("a") ?? 0)); // its transactions end
    ask("b", 200);
  }
  test.ok((held.get("b") ?? 0) >= 80 - 4 - spare, "what one needs no longer is the other's");
  nowMs += leaseMs + 1;
  ask("b", 200);
  test.equal(held.get("b"), 80 - spare, "and all of it when the other is gone");
});

t.test("what is held outlives the sidecar; a file that can't be read makes it careful", async (test) => {
  const directory = mkdtempSync(join(tmpdir(), "quorate-leases-"));
  test.teardown(() => rmSync(directory, { recursive: true }));
  const name = join(directory, "leases.json");
  const warnings: unknown[] = [];
  const start = () =>
    new ConnectionBudget({
      reserved: 0,
      configured: 80,
      run: () => null,
      ask: async () => 80,
      file: new LeaseFile(name, (error) => warnings.push(error)),
      onError: (error) => test.fail(String(error)),
    });
  const ask = async (
    budget: ConnectionBudget,
    holder: string,
    obeys: number,
    wants: number,
  ): Promise<number> => (await budget.lease({ holder, obeys, open: obeys, wants })).share;
  const first = start();
  test.equal(await ask(first, "a", 0, 60), 60, "at once: nothing was ever leased");
  const second = start();
  test.equal(await ask(second, "b", 0, 70), 80 - 60 - keptForNewcomers(80), "a may still have his");
  test.equal(await ask(second, "a", 60, 60), 40, "and has to share it then");
  writeFileSync(name, "no JSON");
  const third = start();
  test.equal(await ask(third, "c", 0, 10), 0);
  test.equal(await ask(third, "a", 60, 60), 60, "who had something keeps it");
  test.equal(warnings.length, 1);
});

t.test("idle connections stay open while nobody wants them", async (test) => {
  let table = renew(newLeaseTable(-leaseMs), { holder: "a", obeys: 0, open: 0, wants: 40 }, 80, 0);
  table = renew(table, { holder: "a", obeys: 40, open: 40, wants: 2 }, 80, 1_000);
  test.equal(table.holders.get("a")?.share, 40);
  table = renew(table, { holder: "b", obeys: 0, open: 0, wants: 78 }, 80, 1_100);
  table = renew(table, { holder: "a", obeys: 40, open: 40, wants: 2 }, 80, 2_000);
  test.equal(table.holders.get("a")?.share, 2, "but not when somebody does");
});
