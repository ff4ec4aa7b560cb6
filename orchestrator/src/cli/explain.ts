// quorate explain: why is done what is done, in words. quorate policy: what a policy is good for, before it is chosen.
import { messageOf } from "@quorate/common";
import {
  builtInPolicies,
  explainRuleset,
  failureTable,
  formatExplanation,
  type Ruleset,
} from "@quorate/consensus";
import { type ClusterOrchestrator, clusterExists, openCluster } from "../cluster/files.ts";
import { planCluster, type UpOptions } from "../cluster/plan.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { rulesetFor } from "../policy-text.ts";
import { readRuleset } from "../shell/coordinator-shell.ts";
import { cohortNodes } from "./bring-up.ts";
import { takeSightings } from "./sightings.ts";

const askTimeoutMs = 2_000;

/** The part of an orchestrator's /status that is shown. */
interface OrchestratorStatus {
  readonly decisions: readonly { readonly kind: string; readonly row: string; readonly reason: string }[];
}

async function ask({ id, zone, host, httpPort }: ClusterOrchestrator): Promise<string[]> {
  const title = `${id} (zone ${zone})`;
  try {
    const signal = AbortSignal.timeout(askTimeoutMs);
    const response = await fetch(`http://${host}:${httpPort}/status`, { signal });
    const { decisions } = (await response.json()) as OrchestratorStatus;
    return [
      title,
      ...decisions.map(({ kind, row, reason }) => `  ${kind.padEnd(12)} ${row.padEnd(26)} ${reason}`),
    ];
  } catch (error) {
    return [`${title}: doesn't answer: ${messageOf(error)}`];
  }
}

/** What each orchestrator decides at this moment, with its reasons; or all that it could decide. */
export async function explain(dir: string, options: { table?: boolean }): Promise<void> {
  if (options.table === true) {
    for (const { name, situation, decision, patience } of failureTable) {
      console.log(`${name}\n  when:     ${situation}\n  decision: ${decision}`);
      if (patience !== "") console.log(`  patience: ${patience}`);
    }
    return;
  }
  const { orchestrators } = openCluster(dir).file;
  for (const lines of await Promise.all(orchestrators.map(ask))) console.log(lines.join("\n"));
}

export function policyList(): void {
  for (const { name, summary } of builtInPolicies) console.log(`${name.padEnd(14)} ${summary}`);
}

/** Of the running cluster. */
async function rulesetInForce(dir: string): Promise<Ruleset> {
  const sightings = await takeSightings(openCluster(dir));
  const newest = sightings
    .flatMap(({ status }) => (status?.ruleset == null ? [] : [status.ruleset]))
    .sort((a, b) => b.version - a.version)[0];
  if (newest !== undefined) return readRuleset(newest);
  throw orchestratorErrors.error(
    "not_running",
    `no node tells its ruleset: start the cluster with "quorate up"`,
  );
}

/** Of a policy for some nodes: those asked for, else those of the cluster, else three in three zones. */
function rulesetOf(dir: string, policy: string, options: UpOptions): Ruleset {
  const asked = options.nodes !== undefined || options.zones !== undefined;
  const file =
    !asked && clusterExists(dir)
      ? openCluster(dir).file
      : planCluster({ ...options, policy, cluster: "main", binDir: "/" });
  return rulesetFor(policy, cohortNodes(file), 1);
}

export async function policyExplain(
  dir: string,
  policy: string | undefined,
  options: UpOptions,
): Promise<void> {
  const ruleset = policy === undefined ? await rulesetInForce(dir) : rulesetOf(dir, policy, options);
  console.log(formatExplanation(explainRuleset(ruleset)).join("\n"));
}
