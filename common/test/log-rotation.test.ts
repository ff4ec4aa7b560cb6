import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { rotateLog } from "../src/log-rotation.ts";

t.test("a log that is kept open stays bounded, and so do its copies", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "ql-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const file = join(directory, "postgres.log");
  const bounds = { maxBytes: 100, kept: 2 };
  t.equal(await rotateLog(file, bounds), false, "no file, nothing to do");
  const writer = openSync(file, "a");
  t.teardown(() => closeSync(writer));
  writeSync(writer, "short\n");
  t.equal(await rotateLog(file, bounds), false);
  for (const round of ["first", "second", "third", "fourth"]) {
    writeSync(writer, `${round} ${"x".repeat(120)}\n`);
    t.equal(await rotateLog(file, bounds), true);
    t.equal(statSync(file).size, 0);
  }
  writeSync(writer, "after\n");
  t.equal(readFileSync(file, "utf8"), "after\n", "no hole where the old lines were");
  t.match(readFileSync(`${file}.1`, "utf8"), /^fourth/);
  t.match(readFileSync(`${file}.2`, "utf8"), /^third/);
  t.notOk(existsSync(`${file}.3`));
});

t.test("without copies it is only emptied", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "ql-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const file = join(directory, "a.log");
  appendFileSync(file, "x".repeat(10));
  t.equal(await rotateLog(file, { maxBytes: 5, kept: 0 }), true);
  t.equal(statSync(file).size, 0);
  t.notOk(existsSync(`${file}.1`));
});
