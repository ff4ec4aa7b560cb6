// Every verb of the command line, by walking the tree of commands: it explains itself with an example, speaks JSON, and
// docs/cli.md shows it with options that exist.
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import t from "tap";
import { buildProgram } from "../src/cli/program.ts";

const documentation = readFileSync(new URL("../../docs/cli.md", import.meta.url), "utf8");
/** psql prints what psql prints; it has options of its own for other forms. */
const withoutJson: ReadonlySet<string> = new Set(["psql"]);

interface Verb {
  readonly words: string;
  readonly command: Command;
}

function verbsOf(command: Command, words: readonly string[] = []): { verbs: Verb[]; groups: Verb[] } {
  const here = { words: words.join(" "), command };
  if (command.commands.length === 0) return { verbs: [here], groups: [] };
  const below = command.commands.map((each) => verbsOf(each, [...words, each.name()]));
  return {
    verbs: below.flatMap(({ verbs }) => verbs),
    groups: [...(words.length === 0 ? [] : [here]), ...below.flatMap(({ groups }) => groups)],
  };
}

function helpOf(command: Command): string {
  let text = "";
  command.configureOutput({ writeOut: (part) => (text += part) });
  command.outputHelp();
  return text;
}

const program = buildProgram(() => undefined);
const { verbs, groups } = verbsOf(program);
/** Lines of the page that are commands, without what psql gets. */
const examples = [...documentation.matchAll(/^ {4}quorate (.+)$/gm)].map(([, line = ""]) => line);

t.ok(verbs.length >= 29, `${verbs.length} verbs were found`);

for (const { words, command } of [...verbs, ...groups])
  t.test(`quorate ${words} explains itself`, (t) => {
    const help = helpOf(command);
    t.ok(command.description().length > 10, "what it does");
    t.match(help, new RegExp(`\\nExample:\\n {2}\\$ quorate ${words}\\b`), "an example");
    for (const option of command.options) t.ok(option.description, `${option.flags} is explained`);
    for (const argument of command.registeredArguments)
      t.ok(argument.description, `${argument.name()} is explained`);
    t.end();
  });

for (const { words, command } of verbs)
  t.test(`quorate ${words}: JSON and documentation`, (t) => {
    const json = command.options.find(({ long }) => long === "--json");
    if (withoutJson.has(words)) t.equal(json, undefined);
    else t.match(json?.description, /^for programs: /);
    t.ok(
      examples.some((line) => `${line} `.startsWith(`${words} `)),
      "docs/cli.md shows it",
    );
    t.end();
  });

t.test("what docs/cli.md shows exists", (t) => {
  for (const line of examples) {
    const [own = ""] = line.split(" -- ");
    const found = verbs.filter(({ words }) => `${own} `.startsWith(`${words} `));
    const verb = found.sort((a, b) => b.words.length - a.words.length)[0];
    t.ok(verb, `quorate ${line}`);
    for (const [flag] of own.matchAll(/(?<= )--?[a-z][a-z-]*/g)) {
      const known = verb?.command.options.some(({ long, short }) => long === flag || short === flag);
      t.ok(known, `quorate ${line}: ${flag}`);
    }
  }
  t.end();
});
