/** After a round of the failover loop: what is wrong, nothing if all is well. */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { messageOf, poll } from "@quorate/common";
import { amcheck, contentsOf } from "../../tests/lib/contents.ts";
import type { Cluster, Server } from "./cluster.ts";
import { bulkRows, type Known } from "./load.ts";

const target = (server: Server) => ({
  host: server.socketDirectory,
  port: 5432,
  user: "postgres",
  database: "postgres",
});

/**
 * All that is committed on the leader is applied on the other servers. A commit of our own marks the end: the commit LSN
 * counts bytes, and on an idle leader it may stay within a record that nobody waits for.
 */
export async function untilAllApplied(leader: Server, servers: readonly Server[]): Promise<void> {
  const end = await leader.value("select pg_logical_emit_message(true, 'end', '')::text");
  for (const server of servers)
    if (server !== leader)
      await poll(
        async () =>
          (await server
            .value(`select (pg_last_wal_replay_lsn() >= '${end}')::text`)
            .catch(() => undefined)) === "true",
        { what: `${server.id} to apply ${end}`, timeoutMs: 120_000, intervalMs: 50 },
      );
}

/** Those that were prepared must be there, and are committed now; of those with an unknown outcome either is right. */
async function finishPrepared(leader: Server, known: Known): Promise<string[]> {
  const wrong: string[] = [];
  const rows = await leader.sql("select gid from pg_prepared_xacts where gid like 'p%'");
  const waiting = new Set(rows.map(([gid]) => Number(gid?.slice(1))));
  const committed = new Set((await leader.sql("select id from ack")).map(([id]) => Number(id)));
  for (const [id, state] of known.prepared) {
    if (state === "prepared" && !waiting.has(id)) wrong.push(`prepared transaction p${id} is gone`);
    if (state === "finishing" && !waiting.has(id) && !committed.has(id))
      wrong.push(`prepared transaction p${id} is neither waiting nor committed`);
    if (state !== "finishing" && committed.has(id)) wrong.push(`p${id} is committed, nobody asked for it`);
  }
  for (const id of waiting) {
    await leader.sql(`commit prepared 'p${id}'`);
    known.acknowledged.add(id);
  }
  known.prepared.clear();
  return wrong;
}

/** Rows that somebody relies on and that aren't there. */
async function missing(leader: Server, known: Known): Promise<string[]> {
  const present = new Set((await leader.sql("select id from ack")).map(([id]) => Number(id)));
  const wrong: string[] = [];
  const lost = [...known.acknowledged].filter((id) => !present.has(id));
  if (lost.length > 0) wrong.push(`${lost.length} acknowledged rows are lost: ${lost.slice(0, 10)}`);
  const unseen = [...known.seen].filter(([id]) => !present.has(id));
  if (unseen.length > 0)
    wrong.push(`${unseen.length} rows that were seen are lost: ${JSON.stringify(unseen.slice(0, 10))}`);
  const torn = await leader.sql(`select batch from bulk group by batch having count(*) <> ${bulkRows}`);
  if (torn.length > 0) wrong.push(`batches that are not whole: ${torn}`);
  return wrong;
}

const alarming =
  /PANIC|TRAP:|invalid page|checksum verification failed|could not read block|WAL contains references|segmentation|terminated by signal 11|terminated by signal 6/i;

export type LogWatcher = {
  /** Alarming lines since the last call. */
  readonly check: () => Promise<string[]>;
  /** What these have written since the last call says nothing: a server without power may well complain. */
  readonly forgive: (servers: readonly Server[]) => Promise<void>;
};

export function watchLogs(servers: readonly Server[]): LogWatcher {
  const read = new Map<Server, number>();
  return {
    async check() {
      const wrong: string[] = [];
      for (const server of servers) {
        const text = await server.log();
        const lines = text.slice(read.get(server) ?? 0).split("\n");
        read.set(server, text.length);
        for (const line of lines) if (alarming.test(line)) wrong.push(`${server.id}'s log: ${line}`);
      }
      return wrong;
    },
    async forgive(forgiven) {
      for (const server of forgiven) read.set(server, (await server.log()).length);
    },
  };
}

/** Segments in the archive must belong to the leader's history, each before its timeline's end. */
export async function checkArchive(leader: Server, archive: string): Promise<string[]> {
  const names = await readdir(archive);
  const { term } = await leader.status();
  const history = await readFile(
    path.join(leader.data, "pg_wal", `${term.toString(16).toUpperCase().padStart(8, "0")}.history`),
    "utf8",
  );
  const ends = new Map<number, bigint>([[term, 2n ** 64n]]);
  for (const line of history.split("\n")) {
    const match = /^(\d+)\t([0-9A-F]+)\/([0-9A-F]+)\t/.exec(line);
    if (match !== null)
      ends.set(Number(match[1]), (BigInt(`0x${match[2]}`) << 32n) | BigInt(`0x${match[3]}`));
  }
  const wrong: string[] = [];
  for (const name of names) {
    const match = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/.exec(name);
    if (match === null) continue;
    const end = ends.get(Number.parseInt(match[1] ?? "", 16));
    const segmentEnd = (BigInt(`0x${match[2]}`) << 32n) + (BigInt(`0x${match[3]}`) + 1n) * 2n ** 24n;
    if (end === undefined) wrong.push(`the archive has ${name}, of a timeline that lost`);
    else if (segmentEnd > end) wrong.push(`the archive has ${name}, which goes beyond its timeline's end`);
  }
  return wrong;
}

const cancelled = /conflict with recovery/;
const mostChecks = 10;

/** Replay cancels a check that stands in its way for too long: then it is made again. */
async function checked<T>(check: () => Promise<T>, problems: (found: T) => readonly string[]): Promise<T> {
  for (let left = mostChecks; ; left--) {
    try {
      const found = await check();
      if (left === 1 || !problems(found).some((each) => cancelled.test(each))) return found;
    } catch (error) {
      if (left === 1 || !cancelled.test(messageOf(error))) throw error;
    }
  }
}

/** All nodes are up and follow `leader`. */
export async function verify(cluster: Cluster, leader: Server, known: Known): Promise<string[]> {
  const wrong = [...(await finishPrepared(leader, known)), ...(await missing(leader, known))];
  await untilAllApplied(leader, cluster.servers);
  const expected = await contentsOf(target(leader));
  await Promise.all(
    cluster.servers.map(async (each) => {
      const contents =
        each === leader
          ? expected
          : await checked(
              () => contentsOf(target(each)),
              () => [],
            );
      for (const name of new Set([...Object.keys(expected), ...Object.keys(contents)])) {
        if (contents[name] !== expected[name])
          wrong.push(`${each.id}: table ${name}: ${contents[name]}; ${leader.id}: ${expected[name]}`);
      }
      const damage = await checked(
        () => amcheck(target(each)),
        (found) => found,
      );
      for (const problem of damage) wrong.push(`${each.id}: ${problem}`);
    }),
  );
  return wrong;
}
