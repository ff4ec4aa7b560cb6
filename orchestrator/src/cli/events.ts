// quorate events: the audit trail, put together from all nodes in reach.
import { messageOf } from "@quorate/common";
import { connectSidecar } from "@quorate/proto";
import { type ClusterNode, openCluster } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { type AuditEvent, explainEvent, formatEvent, mergeEvents } from "../events.ts";
import { grpcAddress } from "./sightings.ts";

const maxEvents = 100_000;

interface Kept {
  readonly node: string;
  readonly lines: readonly string[];
  readonly problem?: string;
}

async function ask(node: ClusterNode): Promise<Kept> {
  const client = connectSidecar(grpcAddress(node));
  try {
    const reply = await client.events({ limit: maxEvents });
    return reply.ok
      ? { node: node.id, lines: reply.events }
      : { node: node.id, lines: [], problem: reply.refusal.message };
  } catch (error) {
    return { node: node.id, lines: [], problem: messageOf(error) };
  } finally {
    client.close();
  }
}

export interface EventsOptions {
  readonly json?: boolean;
  readonly lines?: number;
}

const defaultLines = 50;

export async function events(dir: string, id: string | undefined, options: EventsOptions): Promise<void> {
  const { file } = openCluster(dir);
  const kept = await Promise.all(file.nodes.map(ask));
  if (kept.every(({ problem }) => problem !== undefined))
    throw orchestratorErrors.error("not_running", `no node answers: start the cluster with "quorate up"`);
  const all = mergeEvents(kept.map(({ lines }) => lines));
  if (id !== undefined) return show(find(all, id), options.json === true);
  const newest = all.slice(-(options.lines ?? defaultLines));
  if (options.json === true) console.log(JSON.stringify(newest, undefined, 2));
  else for (const event of newest) console.log(formatEvent(event));
  for (const { node, problem } of kept)
    if (problem !== undefined) console.error(`${node} doesn't answer; what only it has is missing here`);
}

function find(all: readonly AuditEvent[], id: string): AuditEvent {
  const found = all.find((event) => event.id === id);
  if (found !== undefined) return found;
  throw orchestratorErrors.error(
    "bad_option",
    `there is no event ${id}: "quorate events" lists them, with their ids last`,
  );
}

function show(event: AuditEvent, json: boolean): void {
  console.log(json ? JSON.stringify(event, undefined, 2) : explainEvent(event));
}
