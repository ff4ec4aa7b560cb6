/** What a killed postmaster leaves behind beside its data directory. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { run } from "./run.ts";

/** PostgreSQL writes "key id" there (storage/ipc/pg_shmem.h, miscadmin.h: LOCK_FILE_LINE_SHMEM_KEY). */
const shmemLine = 7;

/**
 * Removes the System V segment of a server that was killed and will not be started again: the kernel keeps it until the
 * machine is, and has only 4096. For tests; a server that starts again removes what its predecessor left.
 */
export async function dropSharedMemory(dataDirectory: string): Promise<void> {
  const text = await readFile(path.join(dataDirectory, "postmaster.pid"), "utf8").catch(() => "");
  const id = /^\s*\d+\s+(\d+)\s*$/.exec(text.split("\n")[shmemLine - 1] ?? "")?.[1];
  if (id !== undefined) await run("ipcrm", ["-m", id], { okCodes: [0, 1] });
}
