// The short form of `npm run torture`: a few faults on real nodes in network namespaces, and a control run in which a
// guard is gone, which the checkers must notice.

import { once } from "node:events";
import { connect } from "node:net";
import t from "tap";
import { allFaults } from "../torture/src/faults.ts";
import { Random } from "../torture/src/random.ts";
import { isClean, summaryOf, tableOf } from "../torture/src/report.ts";
import { TortureRun, torture } from "../torture/src/run.ts";
import { LabCluster } from "./lib/lab-cluster.ts";
import { whyNoLab } from "./lib/netlab.ts";

const why = await whyNoLab();
if (why !== undefined) t.comment(`not run: ${why}`);
const needed = why === undefined ? {} : { skip: why };
const seed = 1;
const few = ["cut only replication from the leader", "freeze the leader's machine", "power off the leader"];

t.test("faults of network, machine and power lose nothing", needed, async (test) => {
  const faults = allFaults.filter(({ name }) => few.includes(name));
  test.equal(faults.length, few.length);
  const say = (line: string): void => test.comment(line);
  const result = await torture(test, { seed, count: few.length, faults, say, holdMs: [200, 600] });
  test.comment(`${tableOf([result])}\n${summaryOf([result])}`);
  test.equal(result.strikes.length, few.length, "every fault was got over");
  test.ok(result.acknowledged > 100, `${result.acknowledged} acknowledged appends`);
  test.ok(result.reads > 100, `${result.reads} reads`);
  test.ok(isClean(result), "nothing lost, nothing seen and then lost, one leader a term, equal contents");
});

/** One request to a Postgres, past its sidecar. */
async function command(socket: string, request: object): Promise<void> {
  const connection = connect(socket);
  connection.setEncoding("utf8");
  connection.write(`${JSON.stringify({ id: 1, ...request })}\n`);
  const [line] = (await once(connection, "data")) as [string];
  connection.destroy();
  const answer = JSON.parse(line) as { ok: boolean; message?: string };
  if (!answer.ok) throw new Error(`${JSON.stringify(request)}: ${answer.message}`);
}

t.test(
  "control: a leader that nobody was recruited for loses data, and the checkers see it",
  needed,
  async (test) => {
    const random = new Random(seed);
    const lab = await LabCluster.start(test);
    const say = (line: string): void => test.comment(line);
    const run = new TortureRun(lab, { seed, count: 0, faults: allFaults, say }, random);
    test.teardown(() => run.end());
    await run.prepare();
    const picture = await lab.waitUntilWhole();
    const [rogue = "", ...others] = lab.ids.filter((id) => id !== picture.leader).reverse();
    const elsewhere = [picture.leader ?? "", ...others, ...lab.orchestrators];
    await lab.net.block(
      ...elsewhere.flatMap((id) => [
        { from: rogue, to: id },
        { from: id, to: rogue },
      ]),
    );
    // What the protocol forbids: to begin a term with a rule that nobody validated.
    const term = picture.term + 100;
    await command(lab.controlSocket(rogue), { cmd: "fence", term });
    const ruleset = { version: 1_000, text: JSON.stringify({ version: 1_000 }) };
    await command(lab.controlSocket(rogue), { cmd: "elect", term, rule: rogue, joint: [], ruleset });
    await lab.waitForLeader(rogue);
    test.ok(await run.workload.acknowledges(20, 30_000), "it acknowledges on its own");
    await lab.powerOff(rogue);
    await lab.waitForLeader(picture.leader ?? "");
    test.ok(await run.workload.acknowledges(5, 30_000), "the others go on without it");
    const result = await run.judge(lab.ids.filter((id) => id !== rogue));
    test.ok(result.lost.length > 0, `${result.lost.length} lost, as it must be: ${result.lost[0]}`);
  },
);

// Connections to machines that are gone would keep this process for as long as the kernel tries.
t.teardown(() => setTimeout(() => process.exit(), 500).unref());
