import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { planOf, runPlan, runSeed, shrink, siegeSeeds, World } from "../src/index.ts";
import { applyEdits, mutations } from "../src/mutations.ts";

const seedsFile = readFileSync(new URL("../seeds.txt", import.meta.url), "utf8");
const keptSeeds = seedsFile
  .split("\n")
  .map((line) => line.replace(/#.*/, "").trim())
  .filter((line) => line !== "")
  .map(Number);

function failuresOf(seeds: Iterable<number>, short = true): string[] {
  const failures: string[] = [];
  for (const seed of seeds) {
    const { failure } = runSeed(seed, false, short);
    if (failure !== null) {
      failures.push(`seed ${seed}: ${failure.message}`);
    }
  }
  return failures;
}

function* range(from: number, to: number): Generator<number> {
  for (let seed = from; seed < to; seed += 1) {
    yield seed;
  }
}

t.test("every seed that ever failed", (t) => {
  t.ok(keptSeeds.length > 0 && keptSeeds.every(Number.isInteger));
  t.same(failuresOf(keptSeeds), []);
  t.end();
});

t.test("two thousand short seeds", (t) => {
  t.same(failuresOf(range(1, 2_001)), []);
  t.end();
});

t.test("some worlds of the rare kind", (t) => {
  t.same(failuresOf(range(siegeSeeds, siegeSeeds + 100)), []);
  t.end();
});

t.test("some long seeds", (t) => {
  t.same(failuresOf(range(1, 21), false), []);
  t.end();
});

t.test("the same seed gives the same trace", (t) => {
  for (const seed of range(1, 61)) {
    const first = runSeed(seed);
    const second = runSeed(seed);
    t.equal(first.traceHash, second.traceHash, `seed ${seed}`);
    t.ok(first.events > 100);
  }
  t.end();
});

t.test("the runs are not empty", (t) => {
  const results = [...range(1, 101)].map((seed) => runSeed(seed));
  const sum = (pick: (result: (typeof results)[number]) => number): number =>
    results.reduce((total, result) => total + pick(result), 0);
  t.ok(sum((result) => result.elections) > 150, "elections");
  t.ok(sum((result) => result.acknowledged) > 800, "acknowledged writes");
  t.ok(sum((result) => result.reads) > 200, "confirmed reads");
  t.end();
});

t.test("a broken world is seen, and its script shrinks", (t) => {
  const plan = planOf(7);
  const world = new World(plan);
  // Sabotage: a node forgets its promise in the middle.
  world.queue.at(plan.safetyMs / 2, () => {
    for (const machine of world.machines.values()) {
      machine.promise = null;
      machine.crashSidecar();
      machine.startSidecar();
    }
  });
  t.equal(world.run().failure?.invariant, "I4");
  const shrunk = shrink({ ...plan, safetyMs: 200 }, "nothing");
  t.equal(shrunk.steps.length, plan.steps.length, "what does not fail is not cut down");
  t.equal(runPlan(shrunk).failure, null);
  t.end();
});

t.test("a failure says how to see it again, and what matters of it", (t) => {
  const program = fileURLToPath(new URL("../bin/sim.ts", import.meta.url));
  const seeds = ["--seeds", "20", "--workers", "1", "--mutation", "candidacy-not-checked"];
  const { status, stdout } = spawnSync(process.execPath, [program, ...seeds], { encoding: "utf8" });
  t.equal(status, 1);
  const found = /FAILED seed (\d+) at commit [0-9a-f]+: I1: /.exec(stdout);
  t.ok(found, stdout.slice(0, 2_000));
  const replay = `--seed ${found?.[1]} --mutation candidacy-not-checked`;
  t.match(stdout, `replay: npm run sim -- ${replay}\n`);
  t.match(stdout, /shrunk from \d+ to \d+ steps:\nworld /);
  const again = spawnSync(process.execPath, [program, ...replay.split(" "), "--quiet"], { encoding: "utf8" });
  t.match(
    again.stdout,
    new RegExp(`seed ${found?.[1]}: FAILED I1`),
    "the command that was printed shows it again",
  );
  const unknown = spawnSync(process.execPath, [program, "--mutation", "none"], { encoding: "utf8" });
  t.equal(unknown.status, 2);
  t.match(unknown.stderr, "there is no mutation none");
  t.end();
});

t.test("every mutation still fits the sources", (t) => {
  t.ok(mutations.length >= 20, `${mutations.length} mutations`);
  t.equal(new Set(mutations.map(({ name }) => name)).size, mutations.length, "names are unique");
  for (const mutation of mutations) {
    for (const file of new Set(mutation.edits.map((edit) => edit.file))) {
      const path = new URL(`../../${file}`, import.meta.url);
      const source = readFileSync(path, "utf8");
      t.not(applyEdits(mutation, path.pathname, source), source, mutation.name);
    }
  }
  t.end();
});
