import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { EventLog } from "../src/event-log.ts";

t.test("events are kept in order, bounded in all, and only if they are one JSON object", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "qevents-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const log = new EventLog(join(dir, "events.jsonl"), 200);
  t.same(await log.read(10), []);
  for (let id = 1; id <= 60; id++) void log.append(JSON.stringify({ id }));
  const kept = (await log.read(1_000)).map((line) => (JSON.parse(line) as { id: number }).id);
  t.equal(kept.at(-1), 60);
  t.ok(kept.length >= 20 && kept.length < 60, `${kept.length} kept`);
  t.same(
    kept,
    [...kept].sort((a, b) => a - b),
  );
  t.same(await log.read(1), ['{"id":60}']);
  for (const bad of ["", "[]", "null", '{"a":1}\n{}', "{", `{"a":"${"x".repeat(70_000)}"}`])
    await t.rejects(log.append(bad), bad.slice(0, 20));
  t.same(await log.read(1), ['{"id":60}'], "the bad ones left nothing");
});
