// What the verbs have in common.
import { type Command, InvalidArgumentError, Option } from "commander";

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError("Give a whole number from 1 on.");
  return value;
}

export function setting(text: string, previous: Record<string, string> = {}): Record<string, string> {
  const equals = text.indexOf("=");
  if (equals < 1) throw new InvalidArgumentError("Write name=value, like shared_buffers=256MB.");
  return { ...previous, [text.slice(0, equals)]: text.slice(equals + 1) };
}

/** What it says to people goes to the error output then. */
export const jsonOption = (): Option => new Option("--json", "for programs: one JSON object when it is done");

export function verb(program: Command, name: string, summary: string, example: string): Command {
  return program
    .command(name)
    .description(summary)
    .addOption(
      new Option("--dir <directory>", "the cluster's directory (default: $QUORATE_DIR, else per user)"),
    )
    .addHelpText("after", `\nExample:\n  $ ${example}`);
}
