export type { ClusterFile, SidecarConfig, SidecarConfigInput } from "./config.ts";
export {
  ConfigError,
  clusterFileSchema,
  loadClusterFile,
  loadSidecarConfig,
  sidecarConfigSchema,
} from "./config.ts";
export { type NodePaths, nodePaths } from "./paths.ts";
