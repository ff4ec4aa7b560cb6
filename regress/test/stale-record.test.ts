/** What lies behind the end of the log is never taken for a part of it, however valid it looks. */
import { open } from "node:fs/promises";
import path from "node:path";
import { parseLsn } from "@quorate/consensus";
import { test } from "tap";
import { expectOk, type Server } from "../lib/cluster.ts";
import { threeNodes } from "../lib/three-nodes.ts";

const lsnOf = (text: string | null | undefined): bigint => parseLsn(text ?? "") ?? 0n;

const pageBytes = 8192n;
const segmentBytes = 16n * 1024n * 1024n;

function segmentFile(server: Server, timeline: number, lsn: bigint): string {
  const hex = (value: bigint | number) => value.toString(16).toUpperCase().padStart(8, "0");
  const segment = lsn / segmentBytes;
  const perId = 0x1_0000_0000n / segmentBytes;
  const name = `${hex(timeline)}${hex(segment / perId)}${hex(segment % perId)}`;
  return path.join(server.data, "pg_wal", name);
}

test("an old record with a valid checksum behind the log's end is not taken for its last one", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2] = ["n1", "n2"].map((id) => cluster.node(id)) as [Server, Server];

  // one record from start to end, with room for a second one on its page, and nothing behind it
  let start = 0n;
  let end = 0n;
  do {
    const rows = await n1.sql(
      `select pg_current_wal_insert_lsn(), pg_logical_emit_message(false, 'quorate', 'the last record', true)`,
    );
    start = lsnOf(rows[0]?.[0]);
    end = lsnOf(rows[0]?.[1]);
    await n2.untilStatus("has everything", ({ appliedLsn }) => lsnOf(appliedLsn) >= end);
  } while (start / pageBytes !== (end + (end - start)) / pageBytes || start % pageBytes < 64n);
  await n1.kill9();
  const before = await n2.status();
  t.equal(lsnOf(before.appliedLsn), end, "replay stands at the end of the log");

  const file = await open(segmentFile(n2, 2, start), "r+");
  const record = Buffer.alloc(Number(end - start));
  await file.read(record, 0, record.length, Number(start % segmentBytes));
  t.not(record.readUInt32LE(0), 0, "there is a record to copy");
  await file.write(record, 0, record.length, Number(end % segmentBytes));
  await file.close();

  const { position } = expectOk(await n2.ask({ cmd: "fence", term: 5 }));
  t.same(position, { term: 2, lsn: before.appliedLsn }, "the log ends where it ended");
});
