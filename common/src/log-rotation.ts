/** Bounded logs of processes that keep their file open in append mode: what is there is copied, and the file emptied. */
import { copyFile, rename, rm, stat, truncate } from "node:fs/promises";
import { codeOf } from "./errors.ts";

export interface LogBounds {
  /** A file that is larger becomes `file.1` … `file.<kept>`. */
  readonly maxBytes: number;
  readonly kept: number;
}

export const defaultLogBounds: LogBounds = { maxBytes: 64 * 2 ** 20, kept: 3 };

const lookIntervalMs = 5_000;

/** True: it was too large. A full disk costs the copy, not the bound. */
export async function rotateLog(file: string, { maxBytes, kept }: LogBounds): Promise<boolean> {
  const size = await stat(file).then(
    (found) => found.size,
    (error: unknown) => {
      if (codeOf(error) === "ENOENT") return 0;
      throw error;
    },
  );
  if (size <= maxBytes) return false;
  await rm(`${file}.${kept}`, { force: true });
  for (let number = kept - 1; number >= 1; number--)
    await rename(`${file}.${number}`, `${file}.${number + 1}`).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT") throw error;
    });
  if (kept > 0) await copyFile(file, `${file}.1`).catch(() => rm(`${file}.1`, { force: true }));
  await truncate(file, 0);
  return true;
}

/** Returns the function that ends it. */
export function keepLogsBounded(
  files: () => readonly string[],
  failed: (error: unknown) => void,
  bounds: LogBounds = defaultLogBounds,
): () => void {
  let busy = false;
  let complained = "";
  const look = async (): Promise<void> => {
    if (busy) return;
    busy = true;
    try {
      for (const file of files()) await rotateLog(file, bounds);
      complained = "";
    } catch (error) {
      if (complained !== String(error)) failed(error);
      complained = String(error);
    } finally {
      busy = false;
    }
  };
  const timer = setInterval(() => void look(), lookIntervalMs).unref();
  return () => clearInterval(timer);
}
