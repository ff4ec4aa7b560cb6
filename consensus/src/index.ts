// The consensus core: pure values and functions. No I/O, no clock, no randomness; shells perform the effects.

export * from "./cohort-change.ts";
export * from "./cohort-dry-run.ts";
export * from "./coordinator.ts";
export * from "./coordinator-types.ts";
export * from "./coordinator-words.ts";
export * from "./detector.ts";
export * from "./explain.ts";
export * from "./failure-rows.ts";
export * from "./failure-table-text.ts";
export * from "./lease.ts";
export * from "./node.ts";
export * from "./node-status.ts";
export * from "./node-types.ts";
export * from "./observation.ts";
export * from "./planned-change.ts";
export * from "./policy.ts";
export * from "./rank.ts";
export * from "./recruitment.ts";
export * from "./rule.ts";
export * from "./ruleset.ts";
export * from "./ruleset-change.ts";
export * from "./types.ts";
