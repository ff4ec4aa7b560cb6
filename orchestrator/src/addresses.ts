// Pure: where the nodes of a ruleset are reached. The addresses travel in the ruleset as static properties, so that a
// coordinator that knows one node finds them all.
import type { CohortNode, NodeId, Ruleset } from "@quorate/consensus";

export interface NodeAddress {
  readonly id: NodeId;
  /** host:port of the sidecar's gRPC service. */
  readonly grpc: string;
  readonly host: string;
  readonly port: number;
}

export function addressProperties(host: string, postgres: number, grpc: number): Record<string, string> {
  return { grpc: `${host}:${grpc}`, postgres: `${host}:${postgres}` };
}

export function addressOf(member: CohortNode): NodeAddress | undefined {
  const grpc = member.properties?.["grpc"];
  const postgres = member.properties?.["postgres"];
  if (typeof grpc !== "string" || typeof postgres !== "string") return undefined;
  const colon = postgres.lastIndexOf(":");
  const port = Number(postgres.slice(colon + 1));
  if (colon < 1 || !Number.isInteger(port)) return undefined;
  return { id: member.id, grpc, host: postgres.slice(0, colon), port };
}

export function addressesOf(rulesets: readonly Ruleset[]): NodeAddress[] {
  const found = new Map<NodeId, NodeAddress>();
  for (const member of rulesets.flatMap((ruleset) => ruleset.cohort)) {
    const address = addressOf(member);
    if (address !== undefined) found.set(member.id, address);
  }
  return [...found.values()];
}
