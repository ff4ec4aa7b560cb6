// What stands behind --policy becomes a policy of the core and its options: a name, `majority` or `any-n:n=2`, or the
// path of a user's module, `./mine.ts:n=2`.
import {
  builtInPolicies,
  type CohortNode,
  type CompiledPolicy,
  compilePolicy,
  findPolicy,
  type Policy,
  type PolicyOptions,
} from "@quorate/consensus";
import { orchestratorErrors } from "./error-codes.ts";
import { loadPolicy, policyPath } from "./policy-module.ts";

export interface ChosenPolicy {
  readonly policy: Policy;
  readonly options: PolicyOptions;
}

export function parsePolicy(text: string): ChosenPolicy {
  const module = policyPath(text);
  if (module !== null) {
    const options = module.options === undefined ? {} : parseOptions(module.options);
    return { policy: loadPolicy(module.path), options };
  }
  const colon = text.indexOf(":");
  const name = colon === -1 ? text : text.slice(0, colon);
  const policy = findPolicy(name);
  if (policy === undefined) {
    const known = builtInPolicies.map((each) => `  ${each.name}: ${each.summary}`).join("\n");
    throw orchestratorErrors.error(
      "bad_option",
      `there is no policy "${name}"; give the path of a module of your own (./mine.ts), or choose one of\n${known}`,
    );
  }
  return { policy, options: colon === -1 ? {} : parseOptions(text.slice(colon + 1)) };
}

function parseOptions(text: string): PolicyOptions {
  if (text.startsWith("{")) return parseJsonOptions(text);
  const options: Record<string, unknown> = {};
  for (const part of text.split(",")) {
    const [key, value] = part.split("=");
    if (key === undefined || key === "" || value === undefined || value === "") {
      throw orchestratorErrors.error(
        "bad_option",
        `"${part}" is no policy option: write name=value, or all options as one JSON object`,
      );
    }
    options[key] = /^\d+$/.test(value) ? Number(value) : value;
  }
  return options;
}

function parseJsonOptions(text: string): PolicyOptions {
  try {
    return JSON.parse(text) as PolicyOptions;
  } catch {
    throw orchestratorErrors.error("bad_option", `the policy's options ${text} are not valid JSON`);
  }
}

/** The built-in policies, and the user's that these texts name: where a ruleset says only what its policy is called. */
export function knownPolicies(texts: readonly string[]): Policy[] {
  const modules = texts.filter((text) => policyPath(text) !== null).map((text) => parsePolicy(text).policy);
  return [...builtInPolicies, ...modules];
}

/** The ruleset that puts all these nodes under the policy; refuses what the policy can't serve. */
export function rulesetFor(
  text: string,
  nodes: readonly CohortNode[],
  version: number,
): (CompiledPolicy & { ok: true })["ruleset"] {
  const { policy, options } = parsePolicy(text);
  const compiled = compilePolicy({ policy, nodes, options, version });
  if (compiled.ok) return compiled.ruleset;
  const why = compiled.refusals.map(({ message }) => message).join("; ");
  throw orchestratorErrors.error("bad_option", `policy ${text} doesn't fit these nodes: ${why}`);
}
