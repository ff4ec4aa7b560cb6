import t from "tap";
import { recruitTimeoutMs } from "../src/coordinator-words.ts";
import { defaultCoordinatorOptions } from "../src/index.ts";

t.test("patience with nodes that answer late grows with failures, and has a bound", (t) => {
  const patience = (failures: number): number => recruitTimeoutMs(failures, defaultCoordinatorOptions);
  t.same([0, 1, 2, 3, 4, 100].map(patience), [1_000, 1_000, 2_000, 4_000, 4_000, 4_000]);
  t.end();
});
