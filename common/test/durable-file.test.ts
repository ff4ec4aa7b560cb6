import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import { test } from "tap";
import {
  makeDirectoryDurable,
  parseCheckedJson,
  readCheckedJson,
  removeDurable,
  writeCheckedJson,
  writeDurable,
} from "../src/index.ts";

test("writes, replaces and leaves nothing beside the file", async (t) => {
  const directory = path.join(t.testdir(), "a/b");
  await makeDirectoryDurable(directory);
  const file = path.join(directory, "promise.json");
  await writeDurable(file, "one");
  await writeDurable(file, "two", { mode: 0o640 });
  t.equal(readFileSync(file, "utf8"), "two");
  t.equal(statSync(file).mode & 0o777, 0o640);
  t.equal(statSync(directory).mode & 0o777, 0o700);
  t.same(readdirSync(directory), ["promise.json"]);
  t.equal(await removeDurable(file), true);
  t.equal(await removeDurable(file), false);
});

test("a failed write leaves the old content and no temporary file", async (t) => {
  const directory = t.testdir({ target: { "not-empty": "" } });
  await t.rejects(writeDurable(path.join(directory, "target"), "x"));
  t.same(readdirSync(directory), ["target"]);
});

test("a missing directory is an error, not a silent success", async (t) => {
  await t.rejects(writeDurable(path.join(t.testdir(), "no/such/file"), "x"), { code: "ENOENT" });
});

test("checked JSON comes back as written", async (t) => {
  const file = path.join(t.testdir(), "state.json");
  await fc.assert(
    fc.asyncProperty(fc.json(), async (json) => {
      const value: unknown = JSON.parse(json);
      await writeCheckedJson(file, value);
      const read = await readCheckedJson(file);
      t.equal(read.kind, "ok");
      if (read.kind === "ok") t.equal(JSON.stringify(read.value), JSON.stringify(value));
    }),
    { numRuns: 40, seed: 1 },
  );
});

test("absent and damaged are told apart", async (t) => {
  const file = path.join(t.testdir(), "state.json");
  t.same(await readCheckedJson(file), { kind: "absent" });
  await writeCheckedJson(file, { term: 7, voters: ["n1", "n2"] });
  const good = readFileSync(file, "utf8");
  writeFileSync(file, good.replace("7", "8"));
  t.match(await readCheckedJson(file), { kind: "damaged", reason: /checksum/ });
  writeFileSync(file, "");
  t.same(await readCheckedJson(file), { kind: "damaged", reason: "the file is empty" });
});

test("every truncation of a checked file is noticed", async (t) => {
  const file = path.join(t.testdir(), "state.json");
  await writeCheckedJson(file, { term: 12, leader: "n1" });
  const good = readFileSync(file, "utf8");
  // The last byte is the newline after the JSON: nothing is lost with it.
  for (let size = 0; size < good.length - 1; size++) {
    t.equal(parseCheckedJson(good.slice(0, size)).kind, "damaged", `${size} bytes`);
  }
});
