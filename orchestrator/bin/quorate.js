#!/usr/bin/env node
// Plain JavaScript on purpose: it must start under any Node >= 20 and hand over to the Node that package.json pins,
// which runs the TypeScript sources as they are.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const main = path.join(here, "..", "src", "main.ts");

function pinnedNode() {
  for (let dir = here; ; dir = path.dirname(dir)) {
    const candidate = path.join(dir, "node_modules", "node", "bin", "node");
    if (existsSync(candidate)) return candidate;
    if (dir === path.dirname(dir)) return undefined;
  }
}

const node = pinnedNode();
if (node === undefined) {
  console.error(
    'quorate: the npm dependencies are not installed. Run "npm start" (or "npm install") in the clone first.',
  );
  process.exit(1);
}

// What was compiled once is kept beside the dependencies: whoever could change it could change those, too. Every
// program that this one starts uses it.
const compiled = path.join(path.dirname(node), "..", "..", ".cache", "quorate");
const child = spawn(node, [main, ...process.argv.slice(2)], {
  stdio: "inherit",
  env: { NODE_COMPILE_CACHE: compiled, ...process.env },
});
// A terminal sends Ctrl-C to the whole process group, so the child has it already; every other signal comes only to us.
process.on("SIGINT", () => {
  if (!process.stdin.isTTY) child.kill("SIGINT");
});
for (const signal of ["SIGTERM", "SIGHUP", "SIGQUIT"]) process.on(signal, () => child.kill(signal));
child.on("error", (error) => {
  console.error(`quorate: could not start ${node}: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) =>
  process.exit(signal === null ? (code ?? 1) : 128 + (constants.signals[signal] ?? 0)),
);
