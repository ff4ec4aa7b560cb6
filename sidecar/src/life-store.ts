/**
 * Which life of this node the data directory is (state/incarnation.json): a node that lost its disk comes back as
 * another incarnation, and has forgotten what the one before promised and acknowledged.
 */
import { randomBytes } from "node:crypto";
import { readCheckedJson, writeCheckedJson } from "@quorate/common";
import { isIncarnation } from "@quorate/consensus";
import { z } from "zod";

export type Life = {
  readonly incarnation: string;
  /** It may stream as a member: a copy only from when it knows that no rules in force count on another life. */
  readonly admitted: boolean;
};

const lifeSchema = z.object({ incarnation: z.string().refine(isIncarnation), admitted: z.boolean() });

const incarnationBytes = 9;

export class LifeStore {
  readonly #file: string;
  readonly #onError: (message: string) => void;
  #last: Promise<unknown> = Promise.resolve();

  constructor(file: string, onError: (message: string) => void) {
    this.#file = file;
    this.#onError = onError;
  }

  /**
   * Null: no data was ever made here. Data without this file is older than incarnations, or of a cluster that was
   * restored: it has counted, or is the first. With a damaged one nobody knows whose data it is: it must not count.
   */
  async load(hasData: boolean): Promise<Life | null> {
    const read = await readCheckedJson(this.#file);
    const parsed = read.kind === "ok" ? lifeSchema.safeParse(read.value) : undefined;
    if (parsed?.success === true) return parsed.data;
    if (read.kind !== "absent")
      this.#onError(`${this.#file} can't be used: this node is taken for a new one`);
    return hasData ? this.begin(read.kind === "absent") : null;
  }

  /** A new life, on disk when this is fulfilled. */
  async begin(admitted: boolean): Promise<Life> {
    const life = { incarnation: randomBytes(incarnationBytes).toString("base64url"), admitted };
    await this.#save(life);
    return life;
  }

  async admit(incarnation: string): Promise<void> {
    await this.#save({ incarnation, admitted: true });
  }

  #save(life: Life): Promise<void> {
    const write = this.#last.then(() => writeCheckedJson(this.#file, life));
    this.#last = write.catch(() => undefined);
    return write;
  }
}
