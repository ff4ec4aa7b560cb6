/** What a term begins with: the first segment of its timeline, and the main forks of unlogged relations. */
import { open, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { parseLsn } from "@quorate/consensus";
import { test } from "tap";
import { expectOk, type Server } from "../lib/cluster.ts";
import { majority, threeNodes } from "../lib/three-nodes.ts";

const segmentBytes = 16 * 1024 * 1024;

/** What a process has passed to write() so far, be it to files or elsewhere. */
async function writtenBytes(pid: number): Promise<number> {
  const io = await readFile(`/proc/${pid}/io`, "utf8");
  return Number(/^wchar: (\d+)$/m.exec(io)?.[1]);
}

function firstSegment(server: Server, timeline: number, begin: bigint): string {
  const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, "0");
  const segment = Number(begin / BigInt(segmentBytes));
  return path.join(server.data, "pg_wal", `${hex(timeline)}${hex(0)}${hex(segment)}`);
}

test("the first segment of a term is allocated, only what came before the term is written", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2, n3] = ["n1", "n2", "n3"].map((id) => cluster.node(id)) as [Server, Server, Server];
  // the copy shall be small beside a segment
  await n1.sql("select pg_switch_wal()");
  await n1.sql("insert into t values (1)");
  await n2.untilValue("select count(*) from t", "1");
  await n1.kill9();
  const { position } = expectOk(await n2.ask({ cmd: "fence", term: 5 }));
  expectOk(await n3.ask({ cmd: "fence", term: 5 }));
  const begin = parseLsn(position?.lsn ?? "") ?? 0n;
  const copied = Number(begin % BigInt(segmentBytes));
  t.ok(copied > 0 && copied < segmentBytes / 4, `the term begins within a segment: ${copied}`);

  const replaying = [n2, n3].map((server) => server.child(/startup/));
  const before = await Promise.all(replaying.map(writtenBytes));
  await cluster.lead("n2", 5, majority, ["n3"]);
  await n2.sql("insert into t values (2)");
  await n3.untilValue("select count(*) from t", "2");
  // the startup process of the new leader has ended
  const written = (await writtenBytes(replaying[1] as number)) - (before[1] as number);
  t.ok(written < segmentBytes / 2, `a follower wrote ${written} bytes to prepare the segment`);

  for (const server of [n2, n3]) {
    const name = firstSegment(server, 5, begin);
    const { size, blocks } = await stat(name);
    t.equal(size, segmentBytes, `${server.id}: whole`);
    t.ok(blocks * 512 >= segmentBytes, `${server.id}: its space is allocated`);
    const file = await open(name);
    const tail = Buffer.alloc(segmentBytes / 2);
    await file.read(tail, 0, tail.length, segmentBytes / 2);
    await file.close();
    t.ok(
      tail.every((byte) => byte === 0),
      `${server.id}: zeros where nothing was written yet`,
    );
  }
});

test("unlogged relations are empty and usable in the next term, and the one after", async (t) => {
  const cluster = await threeNodes(t);
  const [n1, n2] = ["n1", "n2"].map((id) => cluster.node(id)) as [Server, Server];
  await n1.sql("create unlogged table u (a int primary key); insert into u values (1)");
  await n2.untilValue("select count(*) from pg_class where relname = 'u'", "1");
  await n1.kill9();
  expectOk(await n2.ask({ cmd: "fence", term: 5 }));
  expectOk(await cluster.node("n3").ask({ cmd: "fence", term: 5 }));
  await cluster.lead("n2", 5, majority, ["n3"]);
  t.equal(await n2.value("select count(*) from u"), "0");
  await n2.sql("insert into u values (1), (2)");
  t.equal(await n2.value("select count(*) from u where a = 2"), "1", "with its index");

  await n1.start();
  await n1.untilStatus("is consistent", ({ consistent }) => consistent);
  await n2.kill9();
  for (const id of ["n1", "n3"]) expectOk(await cluster.node(id).ask({ cmd: "fence", term: 6 }));
  const n3 = cluster.node("n3");
  await cluster.lead("n3", 6, majority, ["n1"]);
  t.equal(await n3.value("select count(*) from u"), "0");
  await n3.sql("insert into u values (1)");
  t.equal(await n3.value("select count(*) from u where a = 1"), "1");
});
