export type {
  CallLimits,
  ConnectOptions,
  RpcFailure,
  SidecarClient,
  WatchEnd,
  WatchHandlers,
  WatchOptions,
} from "./client.ts";
export { connectSidecar, RpcError } from "./client.ts";
export { errorTable } from "./error-codes.ts";
export type {
  CallContext,
  SidecarHandlers,
  SidecarServer,
  SidecarServerOptions,
  Subscription,
} from "./server.ts";
export { startSidecarServer } from "./server.ts";
export * from "./tls.ts";
export type * from "./types.ts";
export { extensionStates, postgresStates } from "./types.ts";
