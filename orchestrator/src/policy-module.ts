// Loads a user's policy from a file. A policy must be a function of the nodes and its options alone, so while its code
// runs there is no clock, no chance and no environment, and it may leave nothing behind in the global object. The core
// adds the rest: frozen copies, two runs, equal answers.
import { existsSync, readFileSync, statSync } from "node:fs";
import { createRequire, registerHooks, stripTypeScriptTypes } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf } from "@quorate/common";
import { type Policy, policyFromModule } from "@quorate/consensus";
import { orchestratorErrors } from "./error-codes.ts";

const modulePattern = /^(.*\.[mc]?[jt]s)(?::(.*))?$/s;

export interface PolicyPath {
  readonly path: string;
  readonly options: string | undefined;
}

/** `./mine.ts:n=2` is a path and its options; `any-n:n=2` is a name. */
export function policyPath(text: string): PolicyPath | null {
  const match = modulePattern.exec(text);
  return match?.[1] === undefined ? null : { path: match[1], options: match[2] };
}

/** What is kept in files: relative paths are relative to where the command was given. */
export function absolutePolicy(text: string, workingDirectory: string): string {
  const found = policyPath(text);
  if (found === null) return text;
  const absolute = path.resolve(workingDirectory, found.path);
  return found.options === undefined ? absolute : `${absolute}:${found.options}`;
}

const loaded = new Map<string, Policy>();

export function loadPolicy(given: string): Policy {
  const file = path.resolve(given);
  const known = loaded.get(file);
  if (known !== undefined) return known;
  const refuse = (why: string): Error => orchestratorErrors.error("bad_option", `policy ${file}: ${why}`);
  if (!existsSync(file) || !statSync(file).isFile()) {
    throw refuse('there is no such file; give the path of a module that exports "compile"');
  }
  let exports: unknown;
  try {
    exports = requireModule(file);
  } catch (error) {
    throw refuse(`it can't be loaded: ${messageOf(error)}`);
  }
  const policy = policyFromModule(exports, file);
  if ("code" in policy) throw refuse(policy.message.replace(`${file} `, "it "));
  const isolated: Policy = {
    name: policy.name,
    summary: policy.summary,
    compile: (nodes, options) => undisturbed(() => policy.compile(nodes, options)),
  };
  loaded.set(file, isolated);
  return isolated;
}

/**
 * Types are stripped here rather than by Node's own loader, which leaves them in when other hooks are installed, such
 * as those of a test runner.
 */
function requireModule(file: string): unknown {
  const hooks = registerHooks({
    load(url, context, nextLoad) {
      if (!/^file:.*\.[mc]?ts$/.test(url) || url.includes("/node_modules/")) return nextLoad(url, context);
      const source = stripTypeScriptTypes(readFileSync(fileURLToPath(url), "utf8"));
      return { format: url.endsWith(".cts") ? "commonjs" : "module", source, shortCircuit: true };
    },
  });
  try {
    return undisturbed(() => createRequire(import.meta.url)(file) as unknown);
  } finally {
    hooks.deregister();
  }
}

/** What a policy could ask besides the nodes, and what it gets for it. */
const forbidden: readonly (readonly [object, PropertyKey, string])[] = [
  [globalThis, "Date", "the time"],
  [globalThis, "performance", "the time"],
  [Math, "random", "chance"],
  [globalThis, "crypto", "chance"],
  [globalThis, "fetch", "the network"],
  [globalThis, "setTimeout", "timers"],
  [globalThis, "setInterval", "timers"],
  [globalThis, "setImmediate", "timers"],
  [globalThis, "queueMicrotask", "timers"],
  [process, "env", "the environment"],
];

/** What a policy could leave something behind in. */
const shared: readonly (readonly [string, object])[] = [
  ["the global object", globalThis],
  ["Math", Math],
  ["JSON", JSON],
  ["Object.prototype", Object.prototype],
  ["Array.prototype", Array.prototype],
  ["String.prototype", String.prototype],
  ["Map.prototype", Map.prototype],
  ["Set.prototype", Set.prototype],
];

type Snapshot = ReadonlyMap<PropertyKey, unknown>;

/** Own values; what Node adds to the global object when one of its parts is first used is no change of the policy's. */
function snapshot(owner: object): Snapshot {
  const keys = Reflect.ownKeys(owner).filter((key) => typeof key === "string");
  return new Map(keys.map((key) => [key, Object.getOwnPropertyDescriptor(owner, key)?.value]));
}

function changesSince(owner: object, before: Snapshot): PropertyKey[] {
  const now = snapshot(owner);
  return [...new Set([...now.keys(), ...before.keys()])].filter(
    (key) => now.has(key) !== before.has(key) || !Object.is(now.get(key), before.get(key)),
  );
}

/** Pure as seen from outside: takes the sources of impurity away, runs, puts them back, and looks for traces. */
export function undisturbed<Result>(run: () => Result): Result {
  const asked: string[] = [];
  const before = shared.map(([, owner]) => snapshot(owner));
  const restore = forbidden.map(([owner, key, what]) => takeAway(owner, key, what, asked));
  let result: Result;
  try {
    result = run();
  } finally {
    for (const back of restore.reverse()) back();
  }
  // Asked for inside a try of the policy's own, it would go unnoticed otherwise.
  if (asked.length > 0) throw impure(`asks for ${[...new Set(asked)].join(" and ")}`);
  const changes = shared.flatMap(([name, owner], at) => {
    const changed = changesSince(owner, before[at] ?? new Map());
    for (const key of changed) if (before[at]?.has(key) === false) Reflect.deleteProperty(owner, key);
    return changed.length === 0 ? [] : [`${name} (${changed.map(String).join(", ")})`];
  });
  if (changes.length > 0) throw impure(`changes ${changes.join(" and ")}`);
  if (result instanceof Promise) throw impure("answers with a promise instead of at once");
  return result;
}

function impure(what: string): Error {
  return new Error(`it ${what}, but a policy must depend on the nodes and its options alone`);
}

function takeAway(owner: object, key: PropertyKey, what: string, asked: string[]): () => void {
  const descriptor = Object.getOwnPropertyDescriptor(owner, key);
  Object.defineProperty(owner, key, {
    configurable: true,
    enumerable: descriptor?.enumerable ?? true,
    get: () => {
      asked.push(what);
      throw impure(`asks for ${what}`);
    },
  });
  return () => {
    if (descriptor === undefined) Reflect.deleteProperty(owner, key);
    else Object.defineProperty(owner, key, descriptor);
  };
}
