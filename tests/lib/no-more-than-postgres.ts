// Who a gateway is: where root starts it, it becomes the user that Postgres runs as.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { postgresUser, runAsPostgres } from "@quorate/common";
import type { Test } from "tap";

/** May Postgres's user do this (-r, -w) with that file? */
const may = (how: string, file: string): Promise<boolean> =>
  runAsPostgres("test", [how, file]).then(
    () => true,
    () => false,
  );

export async function isNoMoreThanPostgres(
  test: Test,
  pid: number | undefined,
  config: string,
): Promise<void> {
  const own = process.getuid?.() ?? -1;
  // In a tree that this user can't read it goes on as root.
  const readable = await may("-r", fileURLToPath(import.meta.url));
  const wanted = readable ? (postgresUser()?.uid ?? own) : own;
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const uids = /^Uid:(.*)$/m.exec(status)?.[1]?.trim().split(/\s+/).map(Number) ?? [];
  test.same(new Set(uids), new Set([wanted]));
  if (wanted !== own) test.match(status, /^CapEff:\s*0+$/m);
  // Or it could tell its next start to stay root.
  test.equal(await may("-w", config), own !== 0, `who may write ${config}`);
}
