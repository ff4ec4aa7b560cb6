// quorate explain: why is done what is done, in words. quorate policy: what a policy is good for, before it is chosen.
import { guardedGet, messageOf, SecretFile } from "@quorate/common";
import {
  builtInPolicies,
  type CohortNode,
  explainRuleset,
  failureTable,
  formatExplanation,
  isNodeId,
  type Ruleset,
} from "@quorate/consensus";
import {
  accessOf,
  type ClusterOrchestrator,
  clusterExists,
  type OpenCluster,
  openCluster,
} from "../cluster/files.ts";
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

async function decisionsOf(
  { file, dir }: OpenCluster,
  { id, host, httpPort }: ClusterOrchestrator,
): Promise<OrchestratorStatus["decisions"]> {
  const { tls, tokenFile } = accessOf({ dir, file });
  const token = tokenFile === undefined ? undefined : new SecretFile(tokenFile).value;
  const asked = {
    host,
    port: httpPort,
    path: "/status",
    serverName: id,
    tls,
    token,
    timeoutMs: askTimeoutMs,
  };
  const { code, body } = await guardedGet(asked);
  if (code !== 200) throw new Error(`HTTP ${code}: ${body.trim()}`);
  return (JSON.parse(body) as OrchestratorStatus).decisions;
}

async function ask(cluster: OpenCluster, orchestrator: ClusterOrchestrator): Promise<string[]> {
  const title = `${orchestrator.id} (zone ${orchestrator.zone})`;
  try {
    const decisions = await decisionsOf(cluster, orchestrator);
    return [
      title,
      ...decisions.map(({ kind, row, reason }) => `  ${kind.padEnd(12)} ${row.padEnd(26)} ${reason}`),
    ];
  } catch (error) {
    return [`${title}: doesn't answer: ${messageOf(error)}`];
  }
}

async function askJson(cluster: OpenCluster, orchestrator: ClusterOrchestrator): Promise<unknown> {
  const { id, zone } = orchestrator;
  try {
    return { orchestrator: id, zone, answers: true, decisions: await decisionsOf(cluster, orchestrator) };
  } catch (error) {
    return { orchestrator: id, zone, answers: false, problem: messageOf(error), decisions: [] };
  }
}

function printJson(value: unknown): void {
  console.log(JSON.stringify(value, null, 2));
}

/** What each orchestrator decides at this moment, with its reasons; or all that it could decide. */
export async function explain(dir: string, options: { table?: boolean; json?: boolean }): Promise<void> {
  if (options.json === true) {
    if (options.table === true) printJson(failureTable);
    else {
      const cluster = openCluster(dir);
      printJson(await Promise.all(cluster.file.orchestrators.map((each) => askJson(cluster, each))));
    }
    return;
  }
  if (options.table === true) {
    for (const { name, situation, decision, patience } of failureTable) {
      console.log(`${name}\n  when:     ${situation}\n  decision: ${decision}`);
      if (patience !== "") console.log(`  patience: ${patience}`);
    }
    return;
  }
  const cluster = openCluster(dir);
  const answers = cluster.file.orchestrators.map((each) => ask(cluster, each));
  for (const lines of await Promise.all(answers)) console.log(lines.join("\n"));
}

export function policyList(options: { json?: boolean }): void {
  if (options.json === true) {
    printJson(builtInPolicies.map(({ name, summary }) => ({ name, summary })));
    return;
  }
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

export interface PolicyExplainOptions extends UpOptions {
  readonly cohort?: readonly CohortNode[];
  readonly json?: boolean;
}

/** `n1=eu/a,n2=eu/b`: nodes with their region and zone, or with a zone alone. */
export function parseCohort(text: string): CohortNode[] {
  const nodes = text.split(",").map((part): CohortNode => {
    const [id = "", place = ""] = part.split("=");
    const [first = "", second] = place.split("/");
    const zone = second ?? first;
    if (!isNodeId(id) || zone === "") {
      throw orchestratorErrors.error(
        "bad_option",
        `--cohort ${text}: "${part}" is no node: write id=zone or id=region/zone, like n1=eu/a,n2=eu/b,n3=us/c`,
      );
    }
    return { id, zone, region: second === undefined ? "" : first };
  });
  const twice = nodes.find(({ id }, at) => nodes.findIndex((each) => each.id === id) !== at);
  if (twice === undefined) return nodes;
  throw orchestratorErrors.error("bad_option", `--cohort ${text}: ${twice.id} is named twice`);
}

/** Of a policy for some nodes: those asked for, else those of the cluster, else three in three zones. */
function rulesetOf(dir: string, policy: string, options: PolicyExplainOptions): Ruleset {
  if (options.cohort !== undefined) {
    if (options.nodes === undefined && options.zones === undefined) {
      return rulesetFor(policy, options.cohort, 1);
    }
    throw orchestratorErrors.error(
      "bad_option",
      "--cohort names the nodes and their zones: leave out --nodes and --zones",
    );
  }
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
  options: PolicyExplainOptions,
): Promise<void> {
  if (policy === undefined && (options.cohort ?? options.nodes ?? options.zones) !== undefined) {
    throw orchestratorErrors.error(
      "bad_option",
      "--cohort, --nodes and --zones are for a policy: name one, as in quorate policy explain majority --nodes 5",
    );
  }
  const ruleset = policy === undefined ? await rulesetInForce(dir) : rulesetOf(dir, policy, options);
  const explanation = explainRuleset(ruleset);
  if (options.json !== true) {
    console.log(formatExplanation(explanation).join("\n"));
    return;
  }
  const { leaders, failover, zones, warnings } = explanation;
  const { name, cohort, options: given = {} } = ruleset;
  printJson({
    policy: name,
    options: given,
    cohort: cohort.map(({ id, zone, region }) => ({ id, zone, region })),
    leaders,
    failover,
    zones,
    warnings,
  });
}
