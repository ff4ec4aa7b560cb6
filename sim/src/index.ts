export * from "./checker.ts";
export * from "./log.ts";
export * from "./plans.ts";
export * from "./run.ts";
export * from "./script.ts";
export * from "./world.ts";
