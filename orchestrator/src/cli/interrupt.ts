// The places between two steps of a planned change. A test ends the process at one of them, as a power cut would; what
// is left must be a cluster that works, and the same command must go on from there (tests/lib/interrupted.ts).
import { sendSignal } from "@quorate/common";

const variable = "QUORATE_TEST_END_AT_STEP";
let passed = 0;

export function betweenSteps(): void {
  passed += 1;
  if (process.env[variable] === String(passed)) sendSignal(process.pid, "SIGKILL");
}
