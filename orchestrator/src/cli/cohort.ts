// quorate node add|remove|replace, quorate policy set: a goal for the cohort, and the core's next step until it is
// reached. Ctrl-C at any moment is safe: the same verb again goes on, and the orchestrators finish what is half done.
import { existsSync } from "node:fs";
import { createLogger, messageOf, poll } from "@quorate/common";
import {
  type CohortGoal,
  type CohortNode,
  cohortIds,
  type DryRun,
  dryRunCohortChange,
  type NodeId,
  nextCohortStep,
  nodeId,
  type Observation,
} from "@quorate/consensus";
import { isNodeId } from "@quorate/consensus/types.ts";
import { begunNode, type Seen } from "../cluster/begun-node.ts";
import { leaderAmong } from "../cluster/bring-up-step.ts";
import { type ClusterNode, findNode, type OpenCluster, openCluster, paths } from "../cluster/files.ts";
import {
  addNodeFiles,
  markAdded,
  type NewNode,
  planNode,
  readReplacement,
  removeNodeData,
  removeNodeFiles,
  removeReplacement,
  setPolicy,
  tellSupervisor,
  writeReplacement,
} from "../cluster/membership.ts";
import { livePid } from "../cluster/processes.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { parsePolicy } from "../policy-text.ts";
import { CohortSession } from "../shell/cohort-session.ts";
import { describeStep, isAction, performStep } from "../shell/cohort-steps.ts";
import { cohortNodes } from "./bring-up.ts";
import { certsFor, hasCerts } from "./certs.ts";
import { handOver } from "./change-leader.ts";
import { betweenSteps } from "./interrupt.ts";
import { grpcAddress } from "./sightings.ts";
import { say } from "./voice.ts";

const hearTimeoutMs = 3_000;
const slowTimeoutMs = 20_000;
const reachTimeoutMs = 600_000;
const lookAgainMs = 1_000;
const afterStepMs = 300;

export interface ChangeOptions {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export async function withSession<T>(
  cluster: OpenCluster,
  use: (session: CohortSession) => Promise<T>,
): Promise<T> {
  const session = new CohortSession({
    addresses: cluster.file.nodes.map(grpcAddress),
    log: createLogger({ name: "cli", level: "silent" }),
  });
  try {
    await session.waitFor(() => session.everybodyHeard(), hearTimeoutMs);
    // Slow is not the same as down.
    const gone = new Set(["refused", "protocol"]);
    const down = (): true | undefined =>
      session.watched().every(({ lastEnd }) => lastEnd !== undefined && gone.has(lastEnd.reason)) ||
      undefined;
    await session.waitFor(() => (session.statuses().length > 0 ? true : down()), slowTimeoutMs);
    if (session.statuses().length === 0)
      throw orchestratorErrors.error(
        "not_running",
        `the cluster in ${cluster.dir} does not run: start it with "quorate up"`,
      );
    return await use(session);
  } finally {
    session.close();
  }
}

interface Wish {
  readonly policy: string;
  readonly nodes: readonly CohortNode[];
  readonly observers?: readonly NodeId[];
  readonly leaving?: readonly NodeId[];
}

function goalOf({ policy: text, nodes, observers = [], leaving = [] }: Wish): CohortGoal {
  const { policy, options } = parsePolicy(text);
  return { policy, options: options as CohortGoal["options"], nodes, observers, leaving };
}

/** Performs step after step until the goal is reached. */
async function reach(session: CohortSession, goal: CohortGoal): Promise<void> {
  const deadlineMs = performance.now() + reachTimeoutMs;
  let last = "";
  const tell = (line: string): void => {
    if (line !== last) say(line);
    last = line;
  };
  for (;;) {
    const step = nextCohortStep(goal, session.observation());
    if (step.kind === "done") return say(step.reason);
    if (step.kind === "refused") throw orchestratorErrors.error("refused", step.reason);
    if (performance.now() > deadlineMs)
      throw orchestratorErrors.error(
        "refused",
        `gave up after ${reachTimeoutMs / 1_000} s: ${step.reason}; the same command goes on from here`,
      );
    if (!isAction(step)) {
      tell(`waiting: ${step.reason}`);
      await session.nextEvent(lookAgainMs);
      continue;
    }
    tell(describeStep(step));
    betweenSteps();
    const tools = {
      directory: session.directory,
      coordinator: session.id,
      changeLeader: (from: NodeId, to: NodeId) => change(session, from, to),
    };
    const startedMs = performance.now();
    const problem = await performStep(step, tools).catch(messageOf);
    betweenSteps();
    await session.record({
      kind: "planned",
      row: step.kind,
      reason: step.reason,
      outcome: problem ?? describeStep(step),
      ok: problem === undefined,
      durationMs: Math.round(performance.now() - startedMs),
    });
    if (problem !== undefined) tell(`trying again: ${problem}`);
    await session.nextEvent(afterStepMs);
  }
}

async function change(session: CohortSession, from: NodeId, to: NodeId): Promise<string | undefined> {
  const leader = leaderAmong(session.statuses());
  if (leader?.node !== from) return `${from} leads no more`;
  return handOver(session, leader, to);
}

function printDryRun({ steps, end }: DryRun, json: boolean): void {
  if (json) {
    const lines = steps.map((step) => ({ kind: step.kind, what: describeStep(step) }));
    console.log(JSON.stringify({ steps: lines, end: { kind: end.kind, reason: end.reason } }, undefined, 2));
    return;
  }
  for (const [index, step] of steps.entries()) say(`${index + 1}. ${describeStep(step)}`);
  say(end.kind === "done" ? "Then it is done. Nothing was changed now." : `Then ${describeStep(end)}`);
}

/** As it will be seen once its sidecar runs. */
function withEmptyNode(observation: Observation, node: ClusterNode): Observation {
  const { nowMs } = observation;
  const view = {
    postgres: "absent" as const,
    state: "" as const,
    term: 0 as never,
    promisedTerm: 0 as never,
    inRecovery: true,
    leader: null,
    receiver: null,
    followers: [],
    ruleset: null,
    wasLeader: false,
    operatorStopped: false,
  };
  const id = nodeId(node.id);
  const observed = {
    id,
    link: "connected" as const,
    linkSinceMs: nowMs,
    view,
    viewAtMs: nowMs,
    promiseRoseAtMs: 0,
  };
  return { ...observation, nodes: new Map(observation.nodes).set(id, observed) };
}

function wishFor({ file }: OpenCluster, change: { policy?: string; leaving?: string } = {}): Wish {
  return {
    policy: change.policy ?? file.policy,
    nodes: cohortNodes(file).filter(({ id }) => id !== change.leaving),
    observers: file.nodes
      .filter((node) => node.observer === true && node.id !== change.leaving)
      .map(({ id }) => nodeId(id)),
    leaving: change.leaving === undefined ? [] : [nodeId(change.leaving)],
  };
}

export async function addNode(dir: string, wish: NewNode, options: ChangeOptions): Promise<void> {
  const before = openCluster(dir);
  const begun = await withSession(before, async (session) =>
    begunNode(before.file, wish, seenBy(session.observation())),
  );
  const node = begun ?? planNode(before, wish);
  await join(dir, node, options, begun !== undefined);
  if (begun?.adding === true && options.dryRun !== true)
    say("this ended what was interrupted before: give the command again for one more node");
}

function seenBy({ rulesets, nodes }: Observation): Seen {
  const follows = [...nodes].filter(([, { view }]) => view?.state === "follower");
  return { cohort: new Set(rulesets.flatMap(cohortIds)), followers: new Set(follows.map(([id]) => id)) };
}

async function join(dir: string, node: ClusterNode, options: ChangeOptions, goesOn: boolean): Promise<void> {
  const before = openCluster(dir);
  const others = before.file.nodes.filter(({ id }) => id !== node.id);
  const goal = goalOf(wishFor({ dir, file: { ...before.file, nodes: [...others, node] } }));
  if (options.dryRun === true) {
    await withSession(before, async (session) => {
      const observation = goesOn ? session.observation() : withEmptyNode(session.observation(), node);
      printDryRun(dryRunCohortChange(goal, observation), options.json === true);
    });
    return;
  }
  const after = others.length < before.file.nodes.length ? before : addNodeFiles(before, node);
  betweenSteps();
  if (!hasCerts(after, node.id)) await certsFor(after, node.id);
  betweenSteps();
  tellSupervisor(dir);
  const what = `${node.id} in zone ${node.zone}${node.observer === true ? ", an observer" : ""}`;
  say(goesOn ? `going on with ${what}` : `${what}: its sidecar is started`);
  betweenSteps();
  await withSession(openCluster(dir), async (session) => {
    const id = nodeId(node.id);
    // Whoever was interrupted while he removed it had stopped it.
    if (session.status(id)?.operatorStopped === true) await session.client(id)?.control({ action: "start" });
    await reach(session, goal);
  });
  markAdded(openCluster(dir), node.id);
}

/** True when the goal is reached; with `dryRun` only the steps are shown. */
async function reached(
  cluster: OpenCluster,
  goal: CohortGoal,
  options: ChangeOptions,
  begin: () => void = () => undefined,
): Promise<boolean> {
  const { dryRun = false, json = false } = options;
  await withSession(cluster, async (session) => {
    const plan = dryRunCohortChange(goal, session.observation());
    if (dryRun) return printDryRun(plan, json);
    if (plan.end.kind === "refused") throw orchestratorErrors.error("refused", plan.end.reason);
    begin();
    await reach(session, goal);
  });
  return !dryRun;
}

export async function removeNode(
  dir: string,
  id: string,
  options: ChangeOptions & { purge?: boolean },
): Promise<void> {
  const cluster = openCluster(dir);
  if (!cluster.file.nodes.some((node) => node.id === id) && isLeftOver(cluster, id)) {
    // Interrupted after it had left.
    if (options.dryRun === true)
      return say(`${id} has left already; what is left of it would be cleared away`);
    return clearAway(cluster, id, options.purge === true);
  }
  findNode(cluster, id);
  const goal = goalOf(wishFor(cluster, { leaving: id }));
  if (!(await reached(cluster, goal, options))) return;
  betweenSteps();
  await clearAway(removeNodeFiles(cluster, id), id, options.purge === true);
}

function isLeftOver(cluster: OpenCluster, id: string): boolean {
  return isNodeId(id) && existsSync(paths.sidecarConfig(cluster.dir, id));
}

async function clearAway(cluster: OpenCluster, id: string, purge: boolean): Promise<void> {
  betweenSteps();
  tellSupervisor(cluster.dir);
  betweenSteps();
  if (purge) {
    await stopped(cluster, id);
    betweenSteps();
    removeNodeData(cluster, id);
  }
  say(`${id} is no part of the cluster any more${purge ? "; its data is removed" : ""}`);
}

/** Its sidecar is gone. */
async function stopped(cluster: OpenCluster, id: string): Promise<void> {
  await poll(
    () => livePid(paths.sidecarPid(cluster.dir, id), paths.sidecarConfig(cluster.dir, id)) === undefined,
    {
      what: `the sidecar of ${id} to stop`,
      timeoutMs: 60_000,
    },
  );
}

/** Out, its data away, and in again: for a damaged disk, say. What it was like is kept until it is back. */
export async function replaceNode(dir: string, id: string, options: ChangeOptions): Promise<void> {
  const cluster = openCluster(dir);
  const begun = readReplacement(dir);
  if (begun !== undefined && begun.id !== id)
    throw orchestratorErrors.error(
      "bad_option",
      `replacing ${begun.id} was interrupted: finish that first with "quorate node replace ${begun.id}"`,
    );
  const node = begun ?? findNode(cluster, id);
  const isMember = cluster.file.nodes.some((each) => each.id === id);
  if (options.dryRun === true) {
    if (isMember) await removeNode(dir, id, options);
    if (options.json !== true) say(`${id} would then be made anew, copied from the leader, and join again`);
    return;
  }
  if (begun === undefined) writeReplacement(dir, { ...node, left: false });
  betweenSteps();
  if (begun?.left !== true) {
    if (isMember || isLeftOver(cluster, id)) await removeNode(dir, id, { purge: true });
    writeReplacement(dir, { ...node, left: true });
    betweenSteps();
  }
  const { left: _, ...plain } = { left: true, ...node };
  await join(dir, plain, {}, begun?.left === true);
  betweenSteps();
  removeReplacement(dir);
}

export async function changePolicy(dir: string, policy: string, options: ChangeOptions): Promise<void> {
  const cluster = openCluster(dir);
  const goal = goalOf(wishFor(cluster, { policy }));
  await reached(cluster, goal, options, () => {
    // First what is wanted, so that orchestrators and later changes of the cohort know it, too.
    setPolicy(cluster, policy);
    betweenSteps();
    tellSupervisor(dir);
    betweenSteps();
  });
}
