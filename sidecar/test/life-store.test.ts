/** Which life of a node its data is: remembered before the data, and never taken for another. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { LifeStore } from "../src/life-store.ts";

function store(t: Test): {
  file: string;
  again: () => LifeStore;
  warnings: string[];
} {
  const file = join(t.testdir({}), "incarnation.json");
  const warnings: string[] = [];
  return { file, warnings, again: () => new LifeStore(file, (message) => warnings.push(message)) };
}

t.test("each life has its own name, a copy counts when it was admitted", async (t) => {
  const { again } = store(t);
  t.equal(await again().load(false), null, "no data was ever made here");
  const first = await again().begin(true);
  t.same(await again().load(true), first);
  const second = await again().begin(false);
  t.not(second.incarnation, first.incarnation);
  t.same(await again().load(true), { incarnation: second.incarnation, admitted: false });
  await again().admit(second.incarnation);
  t.same(await again().load(true), { incarnation: second.incarnation, admitted: true });
});

t.test("data that is older than incarnations counts; what nobody can read does not", async (t) => {
  const { file, again, warnings } = store(t);
  const old = await again().load(true);
  t.equal(old?.admitted, true);
  t.same(await again().load(true), old, "and has a name from now on");
  t.same(warnings, []);
  writeFileSync(file, "{}");
  const unknown = await again().load(true);
  t.equal(unknown?.admitted, false);
  t.not(unknown?.incarnation, old?.incarnation);
  t.equal(warnings.length, 1);
});
