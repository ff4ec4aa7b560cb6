/**
 * What coordinators decided and did, as they tell every node in their reach: so the audit trail survives the loss of
 * any node, and of every coordinator. Lines of JSON in state/events.jsonl; the older half is kept in events.1.jsonl.
 */
import { appendFile, readFile, rename, stat } from "node:fs/promises";
import { codeOf } from "@quorate/common";

export const maxEventBytes = 64 * 1024;
const maxFileBytes = 4 * 2 ** 20;

export class EventLog {
  readonly #file: string;
  readonly #maxFileBytes: number;
  #last: Promise<unknown> = Promise.resolve();

  constructor(file: string, limitBytes = maxFileBytes) {
    this.#file = file;
    this.#maxFileBytes = limitBytes;
  }

  get #older(): string {
    return this.#file.replace(/\.jsonl$/, ".1.jsonl");
  }

  /** Fulfilled when the line is in the file; rejects what is no JSON object in one line. */
  async append(event: string): Promise<void> {
    check(event);
    const write = this.#last.then(async () => {
      await appendFile(this.#file, `${event}\n`, { mode: 0o600 });
      if ((await stat(this.#file)).size > this.#maxFileBytes) await rename(this.#file, this.#older);
    });
    this.#last = write.catch(() => undefined);
    await write;
  }

  /** The newest `limit` lines, oldest first. */
  async read(limit: number): Promise<string[]> {
    await this.#last;
    const lines = [...(await linesOf(this.#older)), ...(await linesOf(this.#file))];
    return lines.slice(-limit);
  }
}

function check(event: string): void {
  if (event.length > maxEventBytes || event.includes("\n"))
    throw new RangeError(`an event is one line of at most ${maxEventBytes} characters`);
  const value: unknown = JSON.parse(event);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new TypeError("an event is a JSON object");
}

async function linesOf(file: string): Promise<string[]> {
  try {
    return (await readFile(file, "utf8")).split("\n").filter((line) => line !== "");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return [];
    throw error;
  }
}
