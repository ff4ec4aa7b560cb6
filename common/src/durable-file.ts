/**
 * Files that survive a power cut: either the old content or the new one, never half of each.
 *
 * Write to a temporary file beside the target, fsync it, rename it over the target, fsync the directory. When the
 * promise is fulfilled the content is on disk; when it is rejected either content may be there after a crash.
 * Two writes of one file must not overlap: its owner runs them one after the other.
 */
import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readFile, rename, unlink } from "node:fs/promises";
import path from "node:path";
import { codeOf } from "./errors.ts";

export type DurableOptions = {
  /** Permissions of the file, default 0600. */
  readonly mode?: number;
  /** Give the file to this user (only root can). */
  readonly owner?: { readonly uid: number; readonly gid: number };
};

/** Makes the entries of a directory durable: new names, renames, removals. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Creates a directory with its parents and makes each new name durable. */
export async function makeDirectoryDurable(directory: string, mode = 0o700): Promise<void> {
  const first = await mkdir(directory, { recursive: true, mode });
  if (first === undefined) return;
  const top = path.dirname(path.resolve(first));
  for (let at = path.dirname(path.resolve(directory)); ; at = path.dirname(at)) {
    await syncDirectory(at);
    if (at === top) return;
  }
}

async function writeAndSync(handle: FileHandle, content: string | Uint8Array, options: DurableOptions) {
  try {
    await handle.writeFile(content);
    if (options.owner !== undefined) await handle.chown(options.owner.uid, options.owner.gid);
    await handle.chmod(options.mode ?? 0o600);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export async function writeDurable(
  file: string,
  content: string | Uint8Array,
  options: DurableOptions = {},
): Promise<void> {
  const directory = path.dirname(file);
  const temporary = path.join(directory, `.${path.basename(file)}.${randomUUID()}.tmp`);
  try {
    await writeAndSync(await open(temporary, "wx", 0o600), content, options);
    await rename(temporary, file);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncDirectory(directory);
}

/** Removes a file durably; false if there was none. */
export async function removeDurable(file: string): Promise<boolean> {
  try {
    await unlink(file);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    throw error;
  }
  await syncDirectory(path.dirname(file));
  return true;
}

function checksumOf(value: unknown): string {
  return `sha256:${createHash("sha256").update(JSON.stringify(value)).digest("hex")}`;
}

/** Writes `{"checksum": …, "data": value}` durably. The value must survive JSON (no bigint, no undefined). */
export async function writeCheckedJson(
  file: string,
  value: unknown,
  options: DurableOptions = {},
): Promise<void> {
  // Through JSON once, so that the checksum is that of what a reader will see.
  const data: unknown = JSON.parse(JSON.stringify(value));
  await writeDurable(file, `${JSON.stringify({ checksum: checksumOf(data), data }, null, 2)}\n`, options);
}

export type CheckedRead =
  | { readonly kind: "ok"; readonly value: unknown }
  | { readonly kind: "absent" }
  | { readonly kind: "damaged"; readonly reason: string };

/** Reads what `writeCheckedJson` wrote. A damaged file is never taken for an absent one. */
export async function readCheckedJson(file: string): Promise<CheckedRead> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { kind: "absent" };
    throw error;
  }
  return parseCheckedJson(text);
}

export function parseCheckedJson(text: string): Exclude<CheckedRead, { kind: "absent" }> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return { kind: "damaged", reason: text === "" ? "the file is empty" : "the file is not JSON" };
  }
  if (typeof parsed !== "object" || parsed === null || !("checksum" in parsed) || !("data" in parsed)) {
    return { kind: "damaged", reason: "the file lacks its checksum" };
  }
  const checksum = checksumOf(parsed.data);
  if (parsed.checksum !== checksum) {
    return {
      kind: "damaged",
      reason: `the checksum is ${checksum}, the file says ${String(parsed.checksum)}`,
    };
  }
  return { kind: "ok", value: parsed.data };
}
