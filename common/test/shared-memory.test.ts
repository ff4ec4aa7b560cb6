import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "tap";
import { dropSharedMemory, run } from "../src/index.ts";

test("the segment that postmaster.pid names is removed, and nothing else", async (t) => {
  const directory = await mkdtemp(path.join(tmpdir(), "quorate-shm-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const make = async () => /id: (\d+)/.exec((await run("ipcmk", ["-M", "56"])).stdout)?.[1] ?? "";
  const exists = async (id: string) =>
    (await run("ipcs", ["-m"])).stdout.split("\n").some((line) => line.split(/\s+/)[1] === id);
  const [named, other] = [await make(), await make()];
  t.teardown(() => run("ipcrm", ["-m", other], { okCodes: [0, 1] }));
  const lines = ["4711", directory, "1790000000", "5432", "/run", "", `  3728303  ${named}`, "ready   ", ""];
  await writeFile(path.join(directory, "postmaster.pid"), lines.join("\n"));
  t.ok((await exists(named)) && (await exists(other)));
  await dropSharedMemory(directory);
  t.notOk(await exists(named));
  t.ok(await exists(other));
  await dropSharedMemory(directory);
  await dropSharedMemory(path.join(directory, "nowhere"));
  t.ok(await exists(other), "again, or without a server: nothing happens");
});
