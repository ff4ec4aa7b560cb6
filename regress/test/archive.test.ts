// A segment goes into the archive when the record with which it ends is committed as a whole: members confirm bytes, and a
// timeline may end before a record of which the quorum has only the beginning.
import { readdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { makePostgresTempDirectory, poll, runAsPostgres, sendSignal } from "@quorate/common";
import { parseLsn } from "@quorate/consensus";
import { test } from "tap";
import type { Server } from "../lib/cluster.ts";
import { freezeReceiver, majority, threeNodes } from "../lib/three-nodes.ts";

const segmentBytes = 16n * 1024n ** 2n;
const recordBytes = 100_000_000;
const segmentName = (lsn: bigint): string =>
  `00000002${(lsn / 2n ** 32n).toString(16).padStart(8, "0")}${((lsn % 2n ** 32n) / segmentBytes)
    .toString(16)
    .padStart(8, "0")}`.toUpperCase();

async function committed(server: Server): Promise<bigint> {
  return parseLsn((await server.status()).commitLsn ?? "0/0") ?? 0n;
}

async function insertAt(server: Server): Promise<bigint> {
  return parseLsn((await server.value("select pg_current_wal_insert_lsn()")) ?? "") ?? 0n;
}

/** Followers receive a little at a time, until this much is committed; then they stand still. */
async function commitUpTo(leader: Server, followers: readonly Server[], least: bigint): Promise<() => void> {
  let thaw = followers.map(freezeReceiver);
  const goOn = (): void => {
    for (const each of thaw) each();
  };
  while ((await committed(leader)) < least) {
    goOn();
    thaw = followers.map(freezeReceiver);
  }
  return goOn;
}

test("what the quorum has only the beginning of", async (t) => {
  const archive = await makePostgresTempDirectory("quorate-archive-");
  t.teardown(() => rm(archive, { recursive: true, force: true }));
  const command = `archive_command = 'cp %p ${archive}/%f.part && mv ${archive}/%f.part ${archive}/%f'`;
  const cluster = await threeNodes(t, majority, ["archive_mode = on", command, "max_wal_size = 4GB"]);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  const archived = async (name: string): Promise<boolean> => (await readdir(archive)).includes(name);
  const untilArchived = (name: string) =>
    poll(() => archived(name), { what: `${name} to be archived`, timeoutMs: 30_000 });

  const first = segmentName(await insertAt(n1));
  await n1.sql("select pg_switch_wal()");
  await untilArchived(first);

  const start = await insertAt(n1);
  const frozen = [n2, n3].map(freezeReceiver);
  const client = await n1.connect();
  const message = client.query(`select pg_logical_emit_message(false, 'big', repeat('z', ${recordBytes}))`);
  await poll(async () => (await insertAt(n1)) > start + BigInt(recordBytes), {
    what: "the record to be written",
    timeoutMs: 30_000,
  });
  for (const thaw of frozen) thaw();
  const goOn = await commitUpTo(n1, [n2, n3], start + 2n * segmentBytes);
  const limit = await committed(n1);
  t.ok(limit < start + BigInt(recordBytes), "only the beginning of the record is committed");

  // The last in the order of names, so that all others that may be archived are archived before.
  const late = "00000002FFFFFFFF000000FF.00000028.backup";
  await writeFile(path.join(n1.data, "pg_wal", late), "");
  await runAsPostgres("touch", [path.join(n1.data, "pg_wal/archive_status", `${late}.ready`)]);
  sendSignal(n1.child(/archiver/), "SIGUSR1");
  await untilArchived(late);
  for (let lsn = start; lsn + segmentBytes < limit; lsn += segmentBytes)
    t.notOk(await archived(segmentName(lsn)), `${segmentName(lsn)} ends within the record`);

  goOn();
  await message;
  const end = await insertAt(n1);
  await n1.sql("select pg_switch_wal()");
  for (let lsn = start; lsn < end; lsn += segmentBytes) await untilArchived(segmentName(lsn));
  t.ok(await archived(segmentName(start)), "and all of it is archived when all of it is committed");
});
