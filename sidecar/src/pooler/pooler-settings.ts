/** What an operator may say of a node's own gateway; the rest of its configuration follows from the sidecar's. Pure. */
import { configSchema } from "@quorate/gateway/config.ts";

export const poolerSettingsSchema = configSchema
  .pick({
    workers: true,
    transport: true,
    pool: true,
    budget: true,
    reads: true,
    limits: true,
    overrides: true,
    admin: true,
    tls: true,
    drainMs: true,
  })
  .partial();
