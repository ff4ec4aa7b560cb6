/** What the other nodes say about themselves; found by the addresses in the applied ruleset. */
import { readTlsFiles, type TlsFiles } from "@quorate/common";
import type { NodeStatus, SidecarClient } from "@quorate/proto";
import { connectSidecar } from "@quorate/proto";
import pg from "pg";
import { z } from "zod";
import type { Peer } from "../conninfo.ts";

const askTimeoutMs = 2_000;

const rulesetSchema = z.object({
  cohort: z.array(
    z.object({
      id: z.string(),
      properties: z.object({ grpc: z.string().optional() }).catchall(z.unknown()).optional(),
    }),
  ),
});

export type PeerAddress = { readonly id: string; readonly grpc: string };

/** Of the cohort; empty if the text is of another form. */
export function peerAddresses(rulesetText: string | undefined): PeerAddress[] {
  if (rulesetText === undefined) return [];
  let parsed: unknown;
  try {
    parsed = JSON.parse(rulesetText);
  } catch {
    return [];
  }
  const ruleset = rulesetSchema.safeParse(parsed);
  if (!ruleset.success) return [];
  return ruleset.data.cohort.flatMap(({ id, properties }) =>
    properties?.grpc === undefined ? [] : [{ id, grpc: properties.grpc }],
  );
}

export class Peers {
  readonly #clients = new Map<string, SidecarClient>();
  readonly #connect: (address: string) => SidecarClient;

  constructor(connect: (address: string) => SidecarClient = connectSidecar) {
    this.#connect = connect;
  }

  /** Everybody but us who answers. */
  async ask(own: NodeStatus): Promise<NodeStatus[]> {
    const answers = await Promise.all(
      this.#others(own).map((client) => client.getStatus({ deadlineMs: askTimeoutMs }).catch(() => null)),
    );
    return answers.filter((status) => status !== null);
  }

  /** A line of the audit trail; who is out of reach lacks it. */
  async tell(own: NodeStatus, event: string): Promise<void> {
    await Promise.allSettled(
      this.#others(own).map((client) => client.record({ event }, { deadlineMs: askTimeoutMs })),
    );
  }

  #others(own: NodeStatus): SidecarClient[] {
    const addresses = peerAddresses(own.ruleset?.text).filter(({ id }) => id !== own.node);
    for (const [address, client] of this.#clients) {
      if (addresses.some(({ grpc }) => grpc === address)) continue;
      client.close();
      this.#clients.delete(address);
    }
    return addresses.map(({ grpc }) => {
      const client = this.#clients.get(grpc) ?? this.#connect(grpc);
      this.#clients.set(grpc, client);
      return client;
    });
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }
}

/** By a replication connection, as any node may make it; null: no answer. */
export async function remoteSystemIdentifier(
  { host, port }: Peer,
  user: string,
  password: string,
  tls?: TlsFiles,
): Promise<string | null> {
  const client = new pg.Client({
    ...(tls === undefined ? {} : { ssl: readTlsFiles(tls) }),
    host,
    port,
    user,
    password,
    // @ts-expect-error: pg passes it on in the startup packet; its types don't know it
    replication: "true",
    connectionTimeoutMillis: askTimeoutMs,
  });
  client.on("error", () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ systemid: string }>("IDENTIFY_SYSTEM");
    return rows[0]?.systemid ?? null;
  } catch {
    return null;
  } finally {
    await client.end().catch(() => undefined);
  }
}
