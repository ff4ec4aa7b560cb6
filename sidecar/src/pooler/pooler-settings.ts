/** What an operator may say of a node's own gateway; the rest of its configuration follows from the sidecar's. Pure. */
import { configSchema } from "@quorate/gateway/config.ts";
import { z } from "zod";

const checked = configSchema
  .pick({
    workers: true,
    transport: true,
    pool: true,
    budget: true,
    reads: true,
    limits: true,
    overrides: true,
    admin: true,
    drainMs: true,
  })
  .partial();

/** As it was written, without defaults: those are the gateway's. */
export const poolerSettingsSchema = z.custom<z.input<typeof checked>>().superRefine((value, context) => {
  const result = checked.safeParse(value);
  if (result.success) return;
  for (const { path, message } of result.error.issues) context.addIssue({ code: "custom", path, message });
});
