// The CLI. Only this file ends the process.
import { codeOf, messageOf, QuorateError } from "@quorate/common";
import { buildProgram } from "./cli/program.ts";

function report(error: unknown): void {
  if (error instanceof QuorateError) {
    console.error(`quorate: ${messageOf(error)}`);
    return;
  }
  const code = codeOf(error);
  console.error(`quorate: ${messageOf(error)}${code === undefined ? "" : ` (${code})`}`);
  if (process.env["QUORATE_DEBUG"] !== undefined && error instanceof Error) console.error(error.stack);
}

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0); // quorate status | head
  throw error;
});

const program = buildProgram((code) => {
  process.exitCode = code;
});

program.parseAsync().then(
  () => process.exit(),
  (error: unknown) => {
    report(error);
    process.exit(1);
  },
);
