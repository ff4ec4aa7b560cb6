// The verbs of `quorate`, their options and their help; what they do is in the files beside this one.

import { Argument, Command, Option } from "commander";
import { resolveDir } from "../cluster/files.ts";
import {
  defaultBasePort,
  defaultNodes,
  defaultPolicy,
  defaultZones,
  parseBasePort,
  parseNodeCount,
  parseZones,
} from "../cluster/plan.ts";
import { absolutePolicy } from "../policy-module.ts";
import type { OperatorAction } from "./node-control.ts";
import { addOperations } from "./program-operations.ts";
import { jsonOption, positiveInteger, setting, verb } from "./program-parts.ts";
import { speakTo } from "./voice.ts";

/** Sets the exit code; a verb that throws ends with 1. */
export type Exit = (code: number) => void;

interface DirOption {
  readonly dir?: string;
}

export function buildProgram(exit: Exit): Command {
  const program = new Command("quorate")
    .description("PostgreSQL that keeps every acknowledged transaction, whatever fails")
    .showSuggestionAfterError()
    .showHelpAfterError("(quorate --help lists the verbs, quorate VERB --help explains one)")
    .enablePositionalOptions()
    .hook("preAction", (_, action) => speakTo(action.opts()["json"] === true ? "programs" : "people"));
  addRunning(program);
  addLooking(program, exit);
  addConnecting(program, exit);
  addLeading(program);
  addNodes(program);
  addExplaining(program);
  addOperations(program);
  addBackups(program);
  return program;
}

function addRunning(program: Command): void {
  verb(
    program,
    "up",
    "start a local cluster; creates it when the directory holds none",
    "quorate up --nodes 3 --zones a,b,c --detach",
  )
    .addOption(
      new Option("--nodes <count>", `how many nodes (default: ${defaultNodes})`).argParser(parseNodeCount),
    )
    .addOption(
      new Option("--zones <names>", `zones, taken in turn (default: ${defaultZones.join(",")})`).argParser(
        parseZones,
      ),
    )
    .addOption(
      new Option(
        "--policy <policy>",
        `durability policy: a name, name:option=value, or the path of a module (default: ${defaultPolicy})`,
      ).argParser((text) => absolutePolicy(text, process.cwd())),
    )
    .addOption(
      new Option("--base-port <port>", `ports count from here (default: ${defaultBasePort})`).argParser(
        parseBasePort,
      ),
    )
    .addOption(
      new Option(
        "--set <name=value>",
        "a Postgres setting of every node, repeatable (new cluster)",
      ).argParser(setting),
    )
    .option(
      "--backup <file>",
      "backups as this section of JSON says: another repository, schedule … (new cluster)",
    )
    .option("--no-backup", "without backups and WAL archive (new cluster)")
    .option("--no-gateway", "without a gateway (new cluster)")
    .option("--detach", "return when the cluster is up; it goes on in the background")
    .addOption(jsonOption())
    .action(async ({ dir, set, detach, ...options }) => {
      const { up } = await import("./up.ts");
      await up({
        ...options,
        dir: resolveDir(dir),
        detach: detach === true,
        ...(set === undefined ? {} : { settings: set }),
      });
    });
  verb(program, "down", "stop the cluster", "quorate down --purge")
    .option("--purge", "remove all its data, too")
    .addOption(jsonOption())
    .action(async ({ dir, ...options }: DirOption & { purge?: boolean }) => {
      const { down } = await import("./down.ts");
      await down(resolveDir(dir), options);
    });
}

function addLooking(program: Command, exit: Exit): void {
  verb(program, "status", "show the leader, the ruleset and every node", "quorate status --json")
    .option("--json", "for programs: one JSON object (with --watch one per line and change)")
    .option("--watch", "go on, and show each change")
    .action(async ({ dir, ...options }: DirOption & { json?: boolean; watch?: boolean }) => {
      const { status } = await import("./status.ts");
      exit(await status(resolveDir(dir), options));
    });
  verb(
    program,
    "logs",
    "show the story of the cluster, or the log of one node or orchestrator",
    "quorate logs n1 --lines 50",
  )
    .argument("[id]", "a node (n1) or an orchestrator (o1); without it all of them, merged by time")
    .addOption(new Option("-n, --lines <count>", "how many lines (default: 100)").argParser(positiveInteger))
    .option("-f, --follow", "go on, and show new lines")
    .option("--postgres", "the log of Postgres, too (default for one node)")
    .option("--no-postgres", "without the log of Postgres")
    .option("--json", "for programs: one JSON object a line")
    .action(async (id: string | undefined, { dir, ...options }) => {
      const { logs } = await import("./logs.ts");
      await logs(resolveDir(dir), id, options);
    });
}

function addExplaining(program: Command): void {
  verb(program, "explain", "say what each orchestrator decides at this moment, and why", "quorate explain")
    .option("--table", "all situations that are known, and what is decided in each")
    .option("--json", "for programs: one JSON array")
    .action(async ({ dir, ...options }: DirOption & { table?: boolean; json?: boolean }) => {
      const { explain } = await import("./explain.ts");
      await explain(resolveDir(dir), options);
    });
  const policy = program
    .command("policy")
    .description("list the durability policies, or explain what one survives")
    .addHelpText("after", "\nExample:\n  $ quorate policy explain any-n:n=2 --nodes 5");
  verb(policy, "list", "list the policies", "quorate policy list")
    .option("--json", "for programs: one JSON array")
    .action(async ({ json }: { json?: boolean }) => {
      const { policyList } = await import("./explain.ts");
      policyList({ json: json === true });
    });
  verb(
    policy,
    "explain",
    "say which failures a policy survives, and which sets of nodes stop it",
    "quorate policy explain two-zones --nodes 5 --zones a,b,c",
  )
    .argument(
      "[policy]",
      "as for up --policy: a name or a module's path; without it the ruleset in force",
      (text) => absolutePolicy(text, process.cwd()),
    )
    .addOption(new Option("--nodes <count>", "for so many nodes").argParser(parseNodeCount))
    .addOption(new Option("--zones <names>", "in these zones, taken in turn").argParser(parseZones))
    .option("--cohort <nodes>", "for these nodes, id=zone or id=region/zone: n1=eu/a,n2=eu/b,n3=us/c")
    .option("--json", "for programs: one JSON object")
    .action(async (name: string | undefined, { dir, cohort, ...options }) => {
      const { parseCohort, policyExplain } = await import("./explain.ts");
      const nodes = cohort === undefined ? {} : { cohort: parseCohort(cohort) };
      await policyExplain(resolveDir(dir), name, { ...options, ...nodes });
    });
}

const roleOption = (): Option =>
  new Option("--role <role>", "connect to a node in this role (default: leader)").choices([
    "leader",
    "follower",
  ]);

function addConnecting(program: Command, exit: Exit): void {
  verb(program, "url", "print a connection string", "quorate url --role follower")
    .addOption(roleOption())
    .option("--node <id>", "connect to this node, whatever its role")
    .option("--all", "every node in one string: clients of libpq find the leader themselves")
    .addOption(jsonOption())
    .action(async ({ dir, ...options }) => {
      const { url } = await import("./connect.ts");
      await url(resolveDir(dir), options);
    });
  verb(program, "psql", "open psql on the leader", "quorate psql -- -c 'select pg_is_in_recovery()'")
    .addOption(roleOption())
    .option("--node <id>", "connect to this node, whatever its role")
    .argument("[arguments...]", "passed on to psql; write -- before them")
    .passThroughOptions()
    .action(async (args: string[], { dir, ...options }) => {
      const { psql } = await import("./connect.ts");
      exit(await psql(resolveDir(dir), options, args));
    });
}

/** With and without the word `leader`: who is woken at night thinks of the verb, who looks around of the thing. */
function addLeading(program: Command): void {
  const leader = program
    .command("leader")
    .description("hand leadership over, or take it: the same as switchover and failover")
    .addHelpText("after", "\nExample:\n  $ quorate leader switchover --to n2");
  addLeaderVerbs(program, "quorate");
  addLeaderVerbs(leader, "quorate leader");
}

function addLeaderVerbs(parent: Command, words: string): void {
  verb(
    parent,
    "switchover",
    "hand leadership over in good order: requests wait for a moment, none fails",
    `${words} switchover --to n2`,
  )
    .option("--to <id>", "the node that shall lead (default: the most advanced follower)")
    .option("--dry-run", "only show what would be done")
    .addOption(jsonOption())
    .action(async ({ dir, ...options }) => {
      const { switchover } = await import("./change-leader.ts");
      await switchover(resolveDir(dir), options);
    });
  verb(
    parent,
    "failover",
    "make another node lead now, without asking the present leader",
    `${words} failover --to n3`,
  )
    .option("--to <id>", "the node that shall lead (default: the most advanced node)")
    .option("--dry-run", "only show what would be done")
    .addOption(jsonOption())
    .action(async ({ dir, ...options }) => {
      const { failover } = await import("./change-leader.ts");
      await failover(resolveDir(dir), options);
    });
}

const nodeVerbs: readonly (readonly [OperatorAction, string])[] = [
  ["stop", "stop a node's Postgres in good order; it stays down until it is started"],
  ["start", "start a node's Postgres that was stopped"],
  ["restart", "stop a node's Postgres in good order and start it again"],
  ["kill", "kill -9 a node's Postgres, to see what happens"],
];

function addNodes(program: Command): void {
  const node = program
    .command("node")
    .description("stop, start, restart or kill one node's Postgres")
    .addHelpText("after", "\nExample:\n  $ quorate node restart n2");
  for (const [action, summary] of nodeVerbs) {
    verb(node, action, summary, `quorate node ${action} n2`)
      .addArgument(new Argument("<id>", "the node"))
      .addOption(jsonOption())
      .action(async (id: string, { dir }: DirOption) => {
        const { nodeControl } = await import("./node-control.ts");
        await nodeControl(resolveDir(dir), action, id);
      });
  }
}

function addBackups(program: Command): void {
  verb(
    program,
    "restore",
    "make a new cluster from the backups of this one, as it was at some moment; this one is only read",
    'quorate restore --to-time "2026-11-21 13:05:31" --into /srv/restored',
  )
    .argument("[target]", 'the word "latest": everything that is in the archive')
    .option("--into <directory>", "where the new cluster shall live")
    .option("--to-time <time>", "as it was at this moment (UTC, or with a zone like +02)")
    .option("--to-lsn <lsn>", "up to this position of the log")
    .option("--to-name <name>", "up to this restore point (pg_create_restore_point)")
    .option("--set <label>", "from this backup, not the newest that fits")
    .option("--name <cluster>", "name of the new cluster (default: <this one>-restored)")
    .addOption(
      new Option("--nodes <count>", "so many nodes (default: as this one)").argParser(parseNodeCount),
    )
    .addOption(
      new Option("--base-port <port>", "ports count from here (default: 100 above this one's)").argParser(
        parseBasePort,
      ),
    )
    .option("--check", "look for damage with amcheck")
    .option("--dry-run", "only show which backup and which WAL would be used")
    .option("--json", "for programs: one JSON object")
    .action(async (target: string | undefined, { dir, ...options }) => {
      const { restore } = await import("./restore.ts");
      await restore(target, { ...options, dir: resolveDir(dir) });
    });
  const backup = program
    .command("backup")
    .description("list, make or verify backups; they are made by themselves, too")
    .addHelpText("after", "\nExample:\n  $ quorate backup list");
  verb(backup, "list", "list the backups in the repository", "quorate backup list --json")
    .option("--json", "for programs: a JSON array")
    .action(async ({ dir, ...options }) => {
      const { backupList } = await import("./backup.ts");
      await backupList(resolveDir(dir), options);
    });
  verb(backup, "now", "make a backup now, from a follower", "quorate backup now --type full")
    .addOption(new Option("--type <type>", "default: incr").choices(["full", "diff", "incr"]))
    .option("--json", "for programs: one JSON object")
    .action(async ({ dir, ...options }) => {
      const { backupNow } = await import("./backup.ts");
      await backupNow(resolveDir(dir), options);
    });
  verb(backup, "verify", "check the sums of everything in the repository", "quorate backup verify")
    .option("--json", "for programs: one JSON object")
    .action(async ({ dir, ...options }) => {
      const { backupVerify } = await import("./backup.ts");
      await backupVerify(resolveDir(dir), options);
    });
}
