/** The promise on disk (state/promise.json): I4, a promise is never forgotten or lowered. */

import { readCheckedJson, writeCheckedJson } from "@quorate/common";
import { coordinatorId, type Promised, term } from "@quorate/consensus";
import { z } from "zod";
import { ConfigError } from "./config.ts";

const promiseSchema = z.object({
  term: z.number().int().min(0).max(0xffffffff),
  coordinator: z.string().nullable(),
});

export class PromiseStore {
  readonly #file: string;
  /** Writes run one after the other, in the order of the calls. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(file: string) {
    this.#file = file;
  }

  /**
   * What was promised last. The file is made at the very first start, when the node has no data yet: a node with
   * data and without it, or with a damaged one, has forgotten its promise and must not take part any more.
   */
  async load(hasData: boolean): Promise<Promised | null> {
    const read = await readCheckedJson(this.#file);
    if (read.kind === "ok") {
      const parsed = promiseSchema.safeParse(read.value);
      if (parsed.success) return toPromised(parsed.data);
    } else if (read.kind === "absent" && !hasData) {
      await this.save(null);
      return null;
    }
    const problem =
      read.kind === "absent"
        ? "is missing"
        : read.kind === "damaged"
          ? `is damaged (${read.reason})`
          : "has an unknown form";
    throw new ConfigError(
      `${this.#file} ${problem}, so this node no longer knows what it promised: remove the node's directories data/ and state/, then it will be copied from the leader`,
    );
  }

  /** Fulfilled when the promise is on disk. */
  save(promise: Promised | null): Promise<void> {
    const value = { term: promise?.term ?? 0, coordinator: promise?.coordinator ?? null };
    const write = this.#last.then(() => writeCheckedJson(this.#file, value));
    this.#last = write.catch(() => undefined);
    return write;
  }
}

function toPromised(stored: z.infer<typeof promiseSchema>): Promised | null {
  if (stored.coordinator === null) return null;
  return { term: term(stored.term), coordinator: coordinatorId(stored.coordinator) };
}
