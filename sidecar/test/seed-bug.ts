/** Loaded before a sidecar: gives it a bug of the simulator's list, for a control test. */
import { seedBug } from "../../sim/src/seeded-bug.ts";

const name = process.env["QUORATE_TEST_MUTATION"];
if (name === undefined) throw new Error("QUORATE_TEST_MUTATION names the bug");
const edited = seedBug(name);
process.once("exit", () => {
  if (edited() === 0) process.stderr.write(`mutation ${name} has edited nothing\n`);
});
