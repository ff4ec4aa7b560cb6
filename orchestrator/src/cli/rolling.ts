// quorate cluster restart, quorate cluster set: one node after the other, the leader last and after it has handed over,
// so that clients notice one short pause and no error.
import { type NodeId, nodeId, noLsn } from "@quorate/consensus";
import { defaultSettings, protectedSettings } from "@quorate/sidecar/settings.ts";
import { leaderAmong } from "../cluster/bring-up-step.ts";
import { findNode, type OpenCluster, openCluster } from "../cluster/files.ts";
import { type Settings, settingsOf, writeSettings } from "../cluster/membership.ts";
import { orchestratorErrors } from "../error-codes.ts";
import type { CohortSession } from "../shell/cohort-session.ts";
import { chooseSuccessor } from "../successor.ts";
import { isStreaming } from "../view.ts";
import { handOver } from "./change-leader.ts";
import { type ChangeOptions, withSession } from "./cohort.ts";
import { betweenSteps } from "./interrupt.ts";
import { say } from "./voice.ts";

const streamTimeoutMs = 120_000;
/** Postgres refuses to replay the log of a server that allows more of these. */
const neverLowered: ReadonlySet<string> = new Set([
  "max_connections",
  "max_locks_per_transaction",
  "max_prepared_transactions",
  "max_wal_senders",
  "max_worker_processes",
]);

/** Everybody streams: only then may one go down. */
async function whole(session: CohortSession, why: string): Promise<void> {
  const missing = (): string[] => {
    const leader = leaderAmong(session.statuses());
    if (leader === undefined) return ["a leader"];
    return session
      .statuses()
      .filter(
        (status) => !status.operatorStopped && !isStreaming(status, leader) && status.node !== leader.node,
      )
      .map(({ node }) => node);
  };
  const done = await session.waitFor(() => missing().length === 0 || undefined, streamTimeoutMs);
  if (done === undefined)
    throw orchestratorErrors.error(
      "refused",
      `${why}, but ${missing().join(", ")} did not come back in time: see "quorate status", then give the command again`,
    );
}

export async function rollingRestart(
  dir: string,
  names: readonly string[],
  options: ChangeOptions,
): Promise<void> {
  const cluster = openCluster(dir);
  for (const name of names) findNode(cluster, name);
  await withSession(cluster, (session) => restartAll(session, cluster, names, options));
}

async function restartAll(
  session: CohortSession,
  { file }: OpenCluster,
  names: readonly string[],
  options: ChangeOptions,
): Promise<void> {
  const leader = leaderAmong(session.statuses());
  if (leader === undefined)
    throw orchestratorErrors.error("no_leader", 'no node leads: see "quorate status"');
  const wanted = (names.length > 0 ? names : file.nodes.map(({ id }) => id)).map(nodeId);
  const order = [...wanted.filter((id) => id !== leader.node), ...wanted.filter((id) => id === leader.node)];
  if (options.dryRun === true) return tellPlan(order, leader.node, options.json === true);
  await whole(session, "a restart needs a whole cluster");
  for (const id of order) {
    if (leaderAmong(session.statuses())?.node === id) await leave(session, id);
    betweenSteps();
    await restart(session, id);
    betweenSteps();
  }
}

function tellPlan(order: readonly NodeId[], leader: NodeId, json: boolean): void {
  const steps = order.flatMap((id) => [
    ...(id === leader ? [`hand leadership over from ${id} to the most advanced follower`] : []),
    `restart Postgres of ${id}, and wait until it streams again`,
  ]);
  if (json) console.log(JSON.stringify({ steps }, undefined, 2));
  else for (const [index, step] of steps.entries()) say(`${index + 1}. ${step}`);
}

async function leave(session: CohortSession, id: NodeId): Promise<void> {
  const leader = leaderAmong(session.statuses());
  if (leader === undefined) throw orchestratorErrors.error("no_leader", "no node leads any more");
  const flushed = new Map(session.statuses().map((status) => [status.node, status.flushedLsn ?? noLsn]));
  const to = chooseSuccessor({ observation: session.observation(), leader: id, flushed });
  say(`handing leadership over from ${id} to ${to}`);
  const problem = await handOver(session, leader, to);
  if (problem !== undefined) throw orchestratorErrors.error("leader_change_failed", problem);
  await whole(session, `${to} leads now`);
}

async function restart(session: CohortSession, id: NodeId): Promise<void> {
  const startedMs = performance.now();
  const before = session.status(id)?.pid;
  const reply = await session.client(id)?.control({ action: "restart" });
  if (reply?.ok !== true)
    throw orchestratorErrors.error("refused", `${id}: ${reply?.refusal.message ?? "no connection"}`);
  await session.require(
    `the new Postgres of ${id}`,
    () => session.status(id)?.pid !== before || undefined,
    streamTimeoutMs,
  );
  await whole(session, `${id} was restarted`);
  say(`${id} was restarted and streams again after ${Math.round(performance.now() - startedMs)} ms`);
}

export async function changeSettings(dir: string, change: Settings, options: ChangeOptions): Promise<void> {
  const cluster = openCluster(dir);
  for (const [name, value] of Object.entries(change)) checkSetting(cluster, name, value);
  if (options.dryRun === true) {
    if (options.json !== true)
      for (const [name, value] of Object.entries(change)) say(`${name} = ${value} on every node; then`);
  } else {
    await withSession(cluster, async () => undefined);
    writeSettings(cluster, change);
  }
  await rollingRestart(dir, [], options);
}

function checkSetting({ dir, file }: OpenCluster, name: string, value: string | number | boolean): void {
  if (protectedSettings.has(name))
    throw orchestratorErrors.error(
      "bad_option",
      `${name} can't be changed: the cluster's safety rests on it`,
    );
  const model = file.nodes[0];
  const before = model === undefined ? undefined : (settingsOf(dir, model.id)[name] ?? defaultSettings[name]);
  if (neverLowered.has(name) && before !== undefined && Number(value) < Number(before))
    throw orchestratorErrors.error(
      "bad_option",
      `${name} is ${before} and can only be raised while the cluster runs: followers can't replay the log of a server that allows more`,
    );
}
