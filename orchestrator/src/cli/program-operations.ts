// The verbs that change a running cluster: nodes that come and go, its policy, its settings, its restarts.
import { Argument, type Command, Option } from "commander";
import { resolveDir } from "../cluster/files.ts";
import { absolutePolicy } from "../policy-module.ts";
import { jsonOption, positiveInteger, setting, verb } from "./program-parts.ts";
import { answerDone } from "./voice.ts";

function planned(command: Command): Command {
  return command.option("--dry-run", "say what would be done; change nothing").addOption(jsonOption());
}

/** With --dry-run the plan was the answer. */
async function perform(work: Promise<void>, { dryRun }: { dryRun?: boolean }): Promise<void> {
  await work;
  if (dryRun !== true) answerDone();
}

function group(program: Command, name: string, summary: string, example: string): Command {
  return (
    program.commands.find((each) => each.name() === name) ??
    program.command(name).description(summary).addHelpText("after", `\nExample:\n  $ ${example}`)
  );
}

export function addOperations(program: Command): void {
  addEvents(program);
  addCertificates(program);
  addNodeOperations(group(program, "node", "add, remove, restart nodes", "quorate node add --zone b"));
  addClusterOperations(
    group(
      program,
      "cluster",
      "restart, configure or upgrade the whole cluster, node by node",
      "quorate cluster restart --dry-run",
    ),
  );
  planned(
    verb(
      group(program, "policy", "durability policies", "quorate policy list"),
      "set",
      "put the running cluster under another durability policy, without a pause",
      "quorate policy set any-n:n=3 --dry-run",
    ).argument("<policy>", "as for up --policy", (text) => absolutePolicy(text, process.cwd())),
  ).action(async (policy: string, { dir, ...options }) => {
    const { changePolicy } = await import("./cohort.ts");
    await perform(changePolicy(resolveDir(dir), policy, options), options);
  });
}

function addCertificates(program: Command): void {
  const certs = group(program, "certs", "certificates of the cluster's own authority", "quorate certs init");
  const days = (): Option =>
    new Option("--days <count>", "how long they are valid (default: 365)").argParser(positiveInteger);
  verb(
    certs,
    "init",
    "make an authority and a certificate for every part (stopped cluster)",
    "quorate certs init",
  )
    .addOption(days())
    .addOption(jsonOption())
    .action(async ({ dir, days: count }) => {
      const { certsInit } = await import("./certs.ts");
      await certsInit(resolveDir(dir), count);
    });
  verb(certs, "renew", "new certificates, which running processes take by themselves", "quorate certs renew")
    .addOption(days())
    .addOption(jsonOption())
    .action(async ({ dir, days: count }) => {
      const { certsRenew } = await import("./certs.ts");
      await certsRenew(resolveDir(dir), count);
    });
}

export function addEvents(program: Command): void {
  verb(
    program,
    "events",
    "the audit trail: what was decided and done, by whom and why; with an id, what was seen then",
    "quorate events --lines 20",
  )
    .argument("[id]", "one event: everything that it was decided from")
    .addOption(
      new Option("-n, --lines <count>", "the newest so many (default: 50)").argParser(positiveInteger),
    )
    .option("--json", "for programs: one JSON array, or one object with an id")
    .action(async (id: string | undefined, { dir, ...options }) => {
      const { events } = await import("./events.ts");
      await events(resolveDir(dir), id, options);
    });
}

function addNodeOperations(node: Command): void {
  planned(
    verb(
      node,
      "add",
      "add a node: copied from the leader, then part of the cohort",
      "quorate node add --zone b",
    ),
  )
    .option("--id <id>", "its name (default: the next free one)")
    .option("--zone <zone>", "its zone (default: the one with the fewest nodes)")
    .option("--observer", "it streams and answers reads, and never counts")
    .action(async ({ dir, dryRun, json, ...wish }) => {
      const { addNode } = await import("./cohort.ts");
      await perform(addNode(resolveDir(dir), wish, { dryRun, json }), { dryRun });
    });
  planned(
    verb(
      node,
      "remove",
      "take a node out of the cluster; a leader hands over first",
      "quorate node remove n3",
    ),
  )
    .addArgument(new Argument("<id>", "the node"))
    .option("--purge", "remove its data, too")
    .action(async (id: string, { dir, ...options }) => {
      const { removeNode } = await import("./cohort.ts");
      await perform(removeNode(resolveDir(dir), id, options), options);
    });
  planned(
    verb(node, "replace", "take a node out, remove its data, and copy it anew", "quorate node replace n3"),
  )
    .addArgument(new Argument("<id>", "the node"))
    .action(async (id: string, { dir, ...options }) => {
      const { replaceNode } = await import("./cohort.ts");
      await perform(replaceNode(resolveDir(dir), id, options), options);
    });
}

function addClusterOperations(cluster: Command): void {
  planned(
    verb(
      cluster,
      "upgrade",
      "go over to another patch release of PostgreSQL, by a restart node by node",
      "quorate cluster upgrade --bin-dir /srv/postgresql-18.7/bin",
    ),
  )
    .addOption(
      new Option("--bin-dir <directory>", "its programs, the same on every machine").makeOptionMandatory(),
    )
    .action(async ({ dir, binDir, ...options }) => {
      const { upgradePostgres } = await import("./upgrade.ts");
      await perform(upgradePostgres(resolveDir(dir), binDir, options), options);
    });
  planned(
    verb(
      cluster,
      "restart",
      "restart Postgres node by node, the leader last and after it handed over",
      "quorate cluster restart --dry-run",
    ),
  )
    .argument("[ids...]", "only these nodes")
    .action(async (ids: string[], { dir, ...options }) => {
      const { rollingRestart } = await import("./rolling.ts");
      await perform(rollingRestart(resolveDir(dir), ids, options), options);
    });
  planned(
    verb(
      cluster,
      "set",
      "change Postgres settings of every node, by a restart node by node",
      "quorate cluster set --value work_mem=16MB",
    ),
  )
    .addOption(
      new Option("--value <name=value>", "a setting, repeatable").argParser(setting).makeOptionMandatory(),
    )
    .action(async ({ dir, value, ...options }) => {
      const { changeSettings } = await import("./rolling.ts");
      await perform(changeSettings(resolveDir(dir), value, options), options);
    });
}
