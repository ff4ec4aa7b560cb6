// Where the programs of this project lie.
import { fileURLToPath } from "node:url";

export const sidecarMain: string = fileURLToPath(import.meta.resolve("@quorate/sidecar/main.ts"));
export const orchestratorMain: string = fileURLToPath(new URL("../orchestrator-main.ts", import.meta.url));
export const gatewayMain: string = fileURLToPath(import.meta.resolve("@quorate/gateway/main.ts"));
export const supervisorMain: string = fileURLToPath(new URL("../supervisor-main.ts", import.meta.url));
