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

/** Writes to a pipe are queued: what is still in the queue when the process ends is lost. */
const written = (stream: NodeJS.WriteStream): Promise<void> =>
  new Promise((resolve) => stream.write("", () => resolve()));

async function end(code?: number): Promise<void> {
  await Promise.all([written(process.stdout), written(process.stderr)]);
  if (code !== undefined) process.exitCode = code;
  process.exit();
}

program.parseAsync().then(
  () => end(),
  (error: unknown) => {
    report(error);
    return end(1);
  },
);
