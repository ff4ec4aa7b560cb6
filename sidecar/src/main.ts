/**
 * node sidecar/src/main.ts --config FILE
 *
 * A sidecar that died should be back soon, so compiled code is cached beside its configuration; that must be set up
 * before anything else is imported.
 */
import { existsSync } from "node:fs";
import * as nodeModule from "node:module";
import { dirname, join } from "node:path";

const configFile = process.argv[process.argv.indexOf("--config") + 1];
// Older versions of Node lack these; then it just starts as slowly as ever.
const { enableCompileCache, flushCompileCache } = nodeModule as Partial<typeof nodeModule>;
if (configFile !== undefined && process.argv.includes("--config") && existsSync(configFile))
  enableCompileCache?.(join(dirname(configFile), "state", "compile-cache"));

const { runSidecar } = await import("./run.ts");
await runSidecar();
// Now, not at the exit: there may be none.
flushCompileCache?.();
