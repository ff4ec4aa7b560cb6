// What the verbs have in common.
import { type Command, InvalidArgumentError, Option } from "commander";

export function setting(text: string, previous: Record<string, string> = {}): Record<string, string> {
  const equals = text.indexOf("=");
  if (equals < 1) throw new InvalidArgumentError("Write name=value, like shared_buffers=256MB.");
  return { ...previous, [text.slice(0, equals)]: text.slice(equals + 1) };
}

export function verb(program: Command, name: string, summary: string, example: string): Command {
  return program
    .command(name)
    .description(summary)
    .addOption(
      new Option("--dir <directory>", "the cluster's directory (default: $QUORATE_DIR, else per user)"),
    )
    .addHelpText("after", `\nExample:\n  $ ${example}`);
}
