/** A gateway that a sidecar has started: it says where it listens, shows its metrics, and ends with the sidecar. */
import { z } from "zod";
import type { RunningGateway } from "./start.ts";

/** To the gateway. */
export const toGatewaySchema = z.object({ kind: z.literal("metrics"), id: z.number() });
export type ToGateway = z.infer<typeof toGatewaySchema>;

/** From the gateway. */
export const fromGatewaySchema = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("listening"), port: z.number(), readPort: z.number().optional() }),
  z.object({ kind: z.literal("metrics"), id: z.number(), text: z.string() }),
]);
export type FromGateway = z.infer<typeof fromGatewaySchema>;

/** Without a channel there is no parent that would listen. */
export function answerParent(gateway: RunningGateway, ended: () => void): void {
  if (process.send === undefined) return;
  const say = (message: FromGateway): void => {
    if (process.connected) process.send?.(message);
  };
  process.on("disconnect", ended);
  process.on("message", (raw) => {
    const message = toGatewaySchema.safeParse(raw);
    if (!message.success) return;
    void gateway.metrics().then((text) => say({ kind: "metrics", id: message.data.id, text }));
  });
  const { port, readPort } = gateway;
  say({ kind: "listening", port, ...(readPort === undefined ? {} : { readPort }) });
}
