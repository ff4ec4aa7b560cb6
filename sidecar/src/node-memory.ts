/** What a sidecar likes to remember over a restart and may lose: state/node.json. Nothing here is safety. */

import { messageOf, readCheckedJson, writeCheckedJson } from "@quorate/common";
import { type NodeId, nodeId, type Term, term } from "@quorate/consensus";
import { z } from "zod";

export type FollowTarget = {
  readonly term: Term;
  readonly leader: NodeId;
  readonly host: string;
  readonly port: number;
  readonly member: boolean;
};

export type Memory = {
  /** Whom this node was told to follow last; resumed after a restart if the promise still allows. */
  readonly follow: FollowTarget | null;
  readonly operatorStopped: boolean;
  /** The last term that this node led; 0: none. */
  readonly ledTerm: Term;
};

const memorySchema = z.object({
  follow: z
    .object({
      term: z.number().int().min(0).max(0xffffffff).transform(term),
      leader: z.string().transform(nodeId),
      host: z.string(),
      port: z.number().int(),
      member: z.boolean(),
    })
    .nullable(),
  operatorStopped: z.boolean(),
  ledTerm: z.number().int().min(0).max(0xffffffff).transform(term),
});

export const emptyMemory: Memory = { follow: null, operatorStopped: false, ledTerm: term(0) };

export class MemoryStore {
  readonly #file: string;
  readonly #onError: (message: string) => void;
  #current: Memory = emptyMemory;
  #last: Promise<unknown> = Promise.resolve();

  constructor(file: string, onError: (message: string) => void) {
    this.#file = file;
    this.#onError = onError;
  }

  get current(): Memory {
    return this.#current;
  }

  async load(): Promise<void> {
    const read = await readCheckedJson(this.#file);
    if (read.kind === "absent") return;
    const parsed = read.kind === "ok" ? memorySchema.safeParse(read.value) : undefined;
    if (parsed?.success === true) this.#current = parsed.data;
    else this.#onError(`${this.#file} can't be used and is started anew`);
  }

  update(change: Partial<Memory>): void {
    this.#current = { ...this.#current, ...change };
    const value = this.#current;
    this.#last = this.#last
      .then(() => writeCheckedJson(this.#file, value))
      .catch((error: unknown) => this.#onError(messageOf(error)));
  }

  /** When everything that was updated is on disk. */
  async flush(): Promise<void> {
    await this.#last;
  }
}
