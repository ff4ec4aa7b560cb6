// Pid files of this machine's processes, and ports.
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { isAlive } from "@quorate/common";

/** The pid in a pid file (its first line), if that process lives and its command line mentions `mark`. */
export function livePid(pidFile: string, mark?: string): number | undefined {
  let text: string;
  try {
    text = readFileSync(pidFile, "utf8");
  } catch {
    return undefined;
  }
  const pid = Number(text.split("\n")[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return undefined;
  if (mark !== undefined && !commandLine(pid).includes(mark)) return undefined;
  return pid;
}

export function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

export function isPortFree(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}
