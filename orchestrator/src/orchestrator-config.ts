// orchestrator.json: what one orchestrator needs to know. One node's address is enough; the others are found.
import { readFileSync } from "node:fs";
import path from "node:path";
import { messageOf } from "@quorate/common";
import { defaultDetectorOptions } from "@quorate/consensus";
import { isLoopback, tlsSchema } from "@quorate/sidecar/config.ts";
import { z } from "zod";
import { orchestratorErrors } from "./error-codes.ts";

const addressSchema = z.string().regex(/^[^\s:]+:\d{1,5}$/, "must be host:port of a sidecar's gRPC service");

export const orchestratorConfigSchema = z.strictObject({
  cluster: z.string().min(1),
  id: z.string().regex(/^[a-z][a-z0-9_-]{0,62}$/),
  zone: z.string().min(1),
  host: z.string().min(1).default("127.0.0.1"),
  /** What it shows to sidecars; they must show a certificate of the same authority. */
  tls: tlsSchema.optional(),
  /** The cluster's token: shown to sidecars where there are no certificates; whoever shows it may read over HTTP. */
  tokenFile: z.string().min(1).optional(),
  /** Show what it sees to anybody. */
  insecure: z.boolean().default(false),
  httpPort: z.number().int().min(1).max(65_535),
  nodes: z.array(addressSchema).min(1),
  /** A leader that was not heard of for so long is replaced; members hear of it every 250 ms. */
  silentMs: z.number().int().min(500).max(60_000).default(1_200),
  /** So many leader changes within a minute before inferred reasons need more and more patience (a flapping link). */
  dampFree: z.number().int().min(0).max(1_000_000).default(defaultDetectorOptions.dampFree),
  /** Texts of policies as for `quorate up --policy`, where one is a module of the user's. */
  policies: z.array(z.string().min(1)).default([]),
  logLevel: z.enum(["trace", "debug", "info", "warn", "error"]).default("info"),
});

export type OrchestratorConfig = z.infer<typeof orchestratorConfigSchema>;
/** What may stand in the file (defaults left out). */
export type OrchestratorConfigInput = z.input<typeof orchestratorConfigSchema>;

export function loadOrchestratorConfig(file: string): OrchestratorConfig {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw orchestratorErrors.error("bad_option", `could not read ${file}: ${messageOf(error)}`);
  }
  const result = orchestratorConfigSchema.safeParse(json);
  if (result.success) return checked(file, result.data);
  const problems = result.error.issues.map((issue) => `${issue.path.join(".") || "(top)"}: ${issue.message}`);
  throw orchestratorErrors.error("bad_option", `${file} is not valid: ${problems.join("; ")}`);
}

function checked(file: string, config: OrchestratorConfig): OrchestratorConfig {
  const { tls, tokenFile } = config;
  const guarded = tls !== undefined || (tokenFile !== undefined && isLoopback(config.host));
  if (!config.insecure && !guarded)
    throw orchestratorErrors.error(
      "bad_option",
      tokenFile === undefined
        ? `${file}: anybody could read what this orchestrator sees: give it the cluster's token (tokenFile) or certificates (tls, see quorate certs init), or say "insecure": true`
        : `${file}: on ${config.host} the token would go over the network in the clear: give it certificates (tls, see quorate certs init), or say "insecure": true`,
    );
  const at = (name: string): string => path.resolve(path.dirname(file), name);
  return {
    ...config,
    ...(tls === undefined ? {} : { tls: { ca: at(tls.ca), cert: at(tls.cert), key: at(tls.key) } }),
    ...(tokenFile === undefined ? {} : { tokenFile: at(tokenFile) }),
  };
}
