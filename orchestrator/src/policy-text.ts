// Pure: what stands behind --policy, `majority` or `any-n:n=2`, becomes a policy of the core and its options.
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

export interface ChosenPolicy {
  readonly policy: Policy;
  readonly options: PolicyOptions;
}

export function parsePolicy(text: string): ChosenPolicy {
  const colon = text.indexOf(":");
  const name = colon === -1 ? text : text.slice(0, colon);
  const policy = findPolicy(name);
  if (policy === undefined) {
    const known = builtInPolicies.map((each) => `  ${each.name}: ${each.summary}`).join("\n");
    throw orchestratorErrors.error("bad_option", `there is no policy "${name}"; choose one of\n${known}`);
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
