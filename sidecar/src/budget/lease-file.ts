/**
 * What gateways hold, for the next run of the sidecar. It needn't survive a loss of power, which ends all connections to
 * this Postgres anyway: nothing waits for the disk to be synced.
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { codeOf } from "@quorate/common";
import { z } from "zod";
import type { Kept } from "./lease-table.ts";

const schema = z.array(z.object({ holder: z.string(), held: z.number().int().min(0) }));

export class LeaseFile {
  readonly #name: string;
  readonly #warn: (error: unknown) => void;
  /** The write that is under way, and the one that comes next: however many ask, there is one of each. */
  #writing: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  constructor(name: string, warn: (error: unknown) => void) {
    this.#name = name;
    this.#warn = warn;
  }

  /** Empty where nothing was ever leased; null: it can't be read. */
  async load(): Promise<readonly Kept[] | null> {
    try {
      return schema.parse(JSON.parse(await readFile(this.#name, "utf8")));
    } catch (error) {
      if (codeOf(error) === "ENOENT") return [];
      this.#warn(error);
      return null;
    }
  }

  /** Fulfilled when what `current` gives from now on is in the file, or can't be written. */
  save(current: () => readonly Kept[]): Promise<void> {
    this.#next ??= this.#writing.then(() => {
      this.#next = undefined;
      this.#writing = this.#write(current()).catch(this.#warn);
      return this.#writing;
    });
    return this.#next;
  }

  async #write(kept: readonly Kept[]): Promise<void> {
    await writeFile(`${this.#name}.new`, `${JSON.stringify(kept)}\n`, { mode: 0o600 });
    await rename(`${this.#name}.new`, this.#name);
  }
}
