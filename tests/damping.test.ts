// A link that comes and goes, of whoever leads, makes no storm of leader changes (docs/operating.md, "Flapping links");
// and a control without the rule, in which it does.
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import t from "tap";
import { LabCluster } from "./lib/lab-cluster.ts";
import { whyNoLab } from "./lib/netlab.ts";

const why = await whyNoLab();
if (why !== undefined) t.comment(`not run: ${why}`);
/** Longer than the patience with a silent leader (1.2 s). */
const cutMs = 1_600;
/** Longer than TCP needs after such a cut: its next attempt comes 3 s after the last that got through. */
const wellMs = 2_400;
const flaps = 8;
/** Three are free, the next needs a silence of 2.4 s, then of 4.8 s, then of 9.6 s, which no flap lasts. */
const mostChanges = 5;
const flapsOfControl = 40;

function changes(lab: LabCluster): number {
  const logs = lab.orchestrators.map((id) => readFileSync(paths.orchestratorLog(lab.open.dir, id), "utf8"));
  const established = logs.join("").matchAll(/"msg":"\S+ (leads term \d+)"/g);
  return new Set([...established].map(([, what]) => what)).size;
}

async function flap(lab: LabCluster): Promise<void> {
  const leader = await lab.leader();
  const heal = await lab.net.block({ from: leader, to: "*" }, { from: "*", to: leader });
  await delay(cutMs);
  await heal();
  await delay(wellMs);
}

t.test("a flapping link", why === undefined ? {} : { skip: why }, async (test) => {
  const lab = await LabCluster.start(test, { damping: true });
  const before = changes(lab);
  for (let i = 0; i < flaps; i++) await flap(lab);
  await lab.waitUntilWhole();
  const damped = changes(lab) - before;
  test.ok(damped >= 1, "a leader that is cut off for long enough is replaced");
  test.ok(damped <= mostChanges, `${damped} leader changes in ${flaps} flaps`);

  lab.damp(false);
  for (const id of lab.orchestrators) {
    await lab.halt(id);
    lab.startOrchestrator(id);
  }
  await lab.waitForOrchestrators();
  const again = changes(lab);
  let needed = 0;
  while (changes(lab) - again <= mostChanges && needed < flapsOfControl) {
    await flap(lab);
    needed += 1;
  }
  test.ok(needed < flapsOfControl, `control: without damping more than ${mostChanges} in ${needed} flaps`);
  await lab.waitUntilWhole();
});

// Connections to machines that are cut off would keep this process for as long as the kernel tries.
t.teardown(() => setTimeout(() => process.exit(), 500).unref());
