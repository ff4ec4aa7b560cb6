// Scenario files: comments, commands, "----", what they must print. REWRITE=1 writes what they do print.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { InvariantViolation } from "../../sim/src/checker.ts";
import { resultOf } from "../../sim/src/wire.ts";
import {
  coordinatorId,
  explainShortage,
  formatPosition,
  judge,
  type NodeId,
  nodeId,
  type Report,
  term,
} from "../src/index.ts";
import { Lab, parseRuleset } from "./lab.ts";

export const scenarioDirectory = fileURLToPath(new URL("../testdata/scenarios/", import.meta.url));

export interface Block {
  readonly line: number;
  readonly comment: readonly string[];
  readonly commands: readonly string[];
  readonly expected: readonly string[];
}

export function readScenario(text: string): Block[] {
  const blocks: Block[] = [];
  let comment: string[] = [];
  let commands: string[] = [];
  let expected: string[] | null = null;
  const finish = (line: number): void => {
    if (commands.length > 0 || comment.length > 0) {
      blocks.push({ line, comment, commands, expected: expected ?? [] });
    }
    comment = [];
    commands = [];
    expected = null;
  };
  for (const [index, line] of text.split("\n").entries()) {
    if (line === "") {
      finish(index);
    } else if (line === "----") {
      expected = [];
    } else if (expected !== null) {
      expected.push(line);
    } else if (line.startsWith("#")) {
      comment.push(line);
    } else {
      commands.push(line);
    }
  }
  finish(text.split("\n").length);
  return blocks;
}

export function formatScenario(blocks: readonly Block[]): string {
  return `${blocks
    .map(({ comment, commands, expected }) =>
      [...comment, ...commands, ...(commands.length > 0 ? ["----", ...expected] : [])].join("\n"),
    )
    .join("\n\n")}\n`;
}

export class ScenarioRun {
  #lab: Lab | null = null;
  #cohort: readonly string[] = [];
  #reports = new Map<string, Map<NodeId, Report>>();

  get lab(): Lab {
    if (this.#lab === null) {
      throw new Error("the first command is `cluster`");
    }
    return this.#lab;
  }

  run(commands: readonly string[]): string[] {
    return commands.flatMap((command) => {
      try {
        return this.#command(command.split(" ").filter((word) => word !== ""));
      } catch (error) {
        if (error instanceof InvariantViolation) {
          return [`BROKEN ${error.message}`];
        }
        throw error;
      }
    });
  }

  #command([verb = "", ...words]: readonly string[]): string[] {
    switch (verb) {
      case "cluster": {
        const at = words.indexOf("rules");
        this.#cohort = words.slice(0, at);
        const ids = this.#cohort.map((word) => word.replace(/@.*/, ""));
        this.#lab = new Lab(ids, parseRuleset(1, this.#cohort, words.slice(at + 1)));
        return [];
      }
      case "ruleset": {
        // ruleset 2 [of n1 n2 n3] rules n1=... n2=...
        const [version = "", ...rest] = words;
        const at = rest.indexOf("rules");
        const cohort = rest[0] === "of" ? rest.slice(1, at) : this.#cohort;
        this.lab.rulesets.set(Number(version), parseRuleset(Number(version), cohort, rest.slice(at + 1)));
        return [];
      }
      case "log": {
        const [id = "", ...rest] = words;
        const at = rest.indexOf("applied");
        const items = at < 0 ? rest : rest.slice(0, at);
        this.lab.setLog(id, items, at < 0 ? 0 : Number(rest[at + 1]));
        return [];
      }
      case "boot":
        this.lab.boot();
        return [];
      case "run":
        this.lab.run(Number(words[0] ?? "100"));
        return [];
      case "net":
        this.lab.connect(words[0] === "all" ? null : words.map((word) => word.split(",")));
        return [];
      case "hold":
        this.lab.hold(words[0] === "nothing" ? null : (words[0] ?? null));
        return [];
      case "logs":
        return (words.length > 0 ? words : [...this.lab.machines.keys()]).map((id) => this.lab.logLine(id));
      case "kill":
        this.lab.machine(words[0] ?? "").crashPostgres();
        this.lab.run(100);
        return [];
      case "powercut":
        this.lab.machine(words[0] ?? "").powerCut();
        return [];
      case "restore":
        this.lab.machine(words[0] ?? "").boot();
        this.lab.run(100);
        return [];
      case "lose":
        this.lab.machine(words[0] ?? "").loseDisk();
        this.lab.machine(words[0] ?? "").boot();
        this.lab.run(100);
        return [];
      case "follow":
        return [this.lab.follow(words[0] ?? "", words[1] ?? "")];
      case "letters":
        this.lab.skipLetters((words[0] ?? "A").charCodeAt(0) - 65);
        return [];
      case "write":
        return words.map((id) => `${id} ${this.lab.write(id)}`);
      case "rules":
        return [this.lab.changeRuleset(words[0] ?? "", Number(words[1]))];
      case "recruit":
        return this.#recruit(words);
      case "judge":
        return this.#judge(words);
      case "change":
        return this.#change(words);
      default:
        throw new Error(`unknown command ${verb}`);
    }
  }

  /** recruit c6 6 n3 n4 n5: one request each, straight to the nodes. */
  #recruit([name = "", termText = "", ...ids]: readonly string[]): string[] {
    const recruitTerm = term(Number(termText));
    const coordinator = coordinatorId(name);
    const reports = this.#reports.get(name) ?? new Map<NodeId, Report>();
    this.#reports.set(name, reports);
    return ids.map((id) => {
      const request = { kind: "recruit" as const, term: recruitTerm, coordinator, reason: "scenario" };
      const answer = this.lab.ask(id, request);
      if (answer === null) {
        return `${id}: no answer`;
      }
      const node = nodeId(id);
      const base = { id: "", term: recruitTerm, coordinator, node, timeoutMs: 0 };
      const result = resultOf(node, { ...base, method: "recruit", reason: "" }, answer);
      if (result.kind !== "recruited") {
        return `${id}: ${result.kind === "refused" ? `${result.refusal.code}: ${result.refusal.message}` : result.kind}`;
      }
      reports.set(node, result.report);
      const tail = result.report.tailRulesets.map((ruleset) => ruleset.version).join(",") || "none";
      return `${id}: recruited at ${formatPosition(result.report.position)}, ruleset ${result.report.ruleset?.version ?? "none"}, in the tail ${tail}`;
    });
  }

  /** judge c6 [candidate=n4] [new=2] */
  #judge([name = "", ...options]: readonly string[]): string[] {
    const option = (key: string): string | undefined =>
      options.find((each) => each.startsWith(`${key}=`))?.slice(key.length + 1);
    const only = option("candidate");
    const fresh = option("new");
    const verdict = judge({
      reports: this.#reports.get(name) ?? new Map(),
      ...(fresh === undefined ? {} : { newRuleset: this.lab.ruleset(Number(fresh)) }),
      ...(only === undefined ? {} : { wish: { only: nodeId(only) } }),
    });
    if (!verdict.ok) {
      return verdict.shortages.map((shortage) => `no: ${explainShortage(shortage)}`);
    }
    const versions = verdict.rulesets.map((ruleset) => ruleset.version).join(", ");
    return [
      `yes: newest log on ${verdict.newest.node}, candidate ${verdict.candidate.node}, under rulesets ${versions}`,
    ];
  }

  /** change c6 reach=n3,n4,n5 [seen=5] [knows=1] [candidate=n4] [new=2] [dies=elect] */
  #change([name = "", ...options]: readonly string[]): string[] {
    const option = (key: string): string | undefined =>
      options.find((each) => each.startsWith(`${key}=`))?.slice(key.length + 1);
    const candidate = option("candidate");
    const fresh = option("new");
    const knows = (option("knows") ?? "1").split(",").map((version) => this.lab.ruleset(Number(version)));
    return this.lab.change(name, (option("reach") ?? "").split(","), option("dies") ?? null, {
      reason: "scenario",
      rulesets: knows,
      highestTerm: term(Number(option("seen") ?? "0")),
      jitter: 0.5,
      ...(candidate === undefined ? {} : { candidate: nodeId(candidate) }),
      ...(fresh === undefined ? {} : { newRuleset: this.lab.ruleset(Number(fresh)) }),
    });
  }
}

export interface ScenarioFile {
  readonly name: string;
  readonly path: string;
  readonly text: string;
}

export function scenarioFiles(): ScenarioFile[] {
  return readdirSync(scenarioDirectory)
    .filter((name) => name.endsWith(".txt"))
    .sort()
    .map((name) => {
      const path = `${scenarioDirectory}${name}`;
      return { name, path, text: readFileSync(path, "utf8") };
    });
}

/** What the file would say if it were right by definition. */
export function replayed(text: string): string {
  const run = new ScenarioRun();
  return formatScenario(readScenario(text).map((block) => ({ ...block, expected: run.run(block.commands) })));
}

export function rewrite(): void {
  for (const { path, text } of scenarioFiles()) {
    writeFileSync(path, replayed(text));
  }
}
