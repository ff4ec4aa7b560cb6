export { type Config, configSchema, parseConfig } from "./config.ts";
export type { Endpoint } from "./pool/endpoint.ts";
export {
  type FollowerEndpoint,
  fixedServer,
  type LeaderSource,
  SettableLeaderSource,
  type View,
} from "./route/leader-source.ts";
export { SidecarWatch } from "./route/sidecar-watch.ts";
export { type RunningGateway, type StartOptions, startGateway } from "./start.ts";
