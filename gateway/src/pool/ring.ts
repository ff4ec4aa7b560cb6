/**
 * What a server connection still owes answers to, in order. Parallel arrays that only ever grow: nothing is
 * allocated per message.
 */
import type { Plan } from "../text/plan.ts";
import type { Statement } from "./statements.ts";

/** Kinds of entries. "Hidden": the client didn't send it and doesn't see the answer. "Made": the server isn't asked, we answer. */
export const owed = {
  none: 0,
  query: 1,
  functionCall: 2,
  parse: 3,
  parseHidden: 4,
  parseMade: 5,
  bind: 6,
  describe: 7,
  execute: 8,
  close: 9,
  closeHidden: 10,
  closeMade: 11,
  sync: 12,
  internal: 14,
  copyEnd: 15,
  /** A message that fails on the server, whose error is replaced by ours. */
  failing: 16,
  describeHidden: 17,
} as const;

export class Ring {
  #kinds = new Uint8Array(16);
  /** How many there are of each kind: a client may pipeline a hundred thousand. */
  readonly #counts = new Int32Array(32);
  #statements: (Statement | undefined)[] = [];
  #previous: (Statement | undefined)[] = [];
  #names: (string | undefined)[] = [];
  #plans: (Plan | undefined)[] = [];
  #mask = 15;
  #head = 0;
  length = 0;

  get head(): number {
    return this.length === 0 ? owed.none : (this.#kinds[this.#head] as number);
  }

  /** `name`: the client's name of a statement that this entry changes, `previous` what it stood for. */
  push(kind: number, plan?: Plan, statement?: Statement, name?: string, previous?: Statement): void {
    if (this.length > this.#mask) this.#grow();
    const at = (this.#head + this.length) & this.#mask;
    this.#kinds[at] = kind;
    (this.#counts[kind] as number)++;
    this.#plans[at] = plan;
    this.#statements[at] = statement;
    this.#names[at] = name;
    this.#previous[at] = previous;
    this.length++;
  }

  kind(index: number): number {
    return this.#kinds[(this.#head + index) & this.#mask] as number;
  }
  plan(index: number): Plan | undefined {
    return this.#plans[(this.#head + index) & this.#mask];
  }
  statement(index: number): Statement | undefined {
    return this.#statements[(this.#head + index) & this.#mask];
  }
  name(index: number): string | undefined {
    return this.#names[(this.#head + index) & this.#mask];
  }
  previous(index: number): Statement | undefined {
    return this.#previous[(this.#head + index) & this.#mask];
  }

  pop(): void {
    (this.#counts[this.#kinds[this.#head] as number] as number)--;
    this.#statements[this.#head] = undefined;
    this.#previous[this.#head] = undefined;
    this.#head = (this.#head + 1) & this.#mask;
    this.length--;
  }

  /** The first entry of this kind, or -1. */
  find(kind: number): number {
    if (this.#counts[kind] === 0) return -1;
    for (let index = 0; index < this.length; index++) if (this.kind(index) === kind) return index;
    return -1;
  }

  /** Whether this statement is being prepared in a request whose Sync has been sent: it may fail yet. */
  parsedBeforeSync(statement: Statement): boolean {
    if (this.count(owed.sync) === 0) return false;
    if (this.count(owed.parse) + this.count(owed.parseHidden) === 0) return false;
    let sync = false;
    for (let index = this.length - 1; index >= 0; index--) {
      const kind = this.kind(index);
      if (kind === owed.sync) sync = true;
      else if (
        sync &&
        (kind === owed.parse || kind === owed.parseHidden) &&
        this.statement(index) === statement
      )
        return true;
    }
    return false;
  }

  /**
   * The unnamed statement is `statement` again after all before `from` has come to nothing. True if a later request has
   * replaced it already: then that one goes back to it, if it fails in its turn.
   */
  restoreUnnamed(from: number, statement: Statement | undefined): boolean {
    for (let index = from; index < this.length; index++) {
      const kind = this.kind(index);
      if (kind === owed.query) return true;
      if (
        this.name(index) !== "" ||
        (kind !== owed.parse && kind !== owed.parseMade && kind !== owed.closeMade)
      )
        continue;
      this.#previous[(this.#head + index) & this.#mask] = statement;
      return true;
    }
    return false;
  }

  /** Answers of our own are due. */
  get headIsMade(): boolean {
    if (this.length === 0) return false;
    const head = this.#kinds[this.#head] as number;
    return head === owed.parseMade || head === owed.closeMade || head === owed.copyEnd;
  }

  /** Nothing that the server answers is owed. */
  get onlyMade(): boolean {
    return this.length === this.count(owed.parseMade) + this.count(owed.closeMade) + this.count(owed.copyEnd);
  }

  count(kind: number): number {
    return this.#counts[kind] as number;
  }

  /** How many ReadyForQuery messages the client still expects. */
  countReady(): number {
    return this.count(owed.query) + this.count(owed.sync) + this.count(owed.functionCall);
  }

  /** Whether something owed might begin, or end (and so commit), a transaction. */
  mayDo(what: "begin" | "commit"): boolean {
    for (let index = 0; index < this.length; index++) {
      const plan = this.plan(index);
      if (plan?.effects?.some((effect) => effect.kind === what)) return true;
    }
    return false;
  }

  /** Removes the entry at `index`, which need not be the first: for Sync messages that a COPY swallows. */
  remove(index: number): void {
    (this.#counts[this.kind(index)] as number)--;
    for (let at = index; at < this.length - 1; at++) {
      const to = (this.#head + at) & this.#mask;
      const from = (this.#head + at + 1) & this.#mask;
      this.#kinds[to] = this.#kinds[from] as number;
      this.#plans[to] = this.#plans[from];
      this.#statements[to] = this.#statements[from];
      this.#names[to] = this.#names[from];
      this.#previous[to] = this.#previous[from];
    }
    this.length--;
  }

  clear(): void {
    this.#counts.fill(0);
    this.length = 0;
    this.#statements = [];
    this.#previous = [];
  }

  #grow(): void {
    const size = this.#mask + 1;
    const turn = <T>(list: readonly T[]): T[] =>
      Array.from({ length: size }, (_, index) => list[(this.#head + index) & this.#mask] as T);
    const kinds = new Uint8Array(size * 2);
    for (let index = 0; index < size; index++)
      kinds[index] = this.#kinds[(this.#head + index) & this.#mask] as number;
    this.#plans = turn(this.#plans);
    this.#statements = turn(this.#statements);
    this.#names = turn(this.#names);
    this.#previous = turn(this.#previous);
    this.#kinds = kinds;
    this.#head = 0;
    this.#mask = size * 2 - 1;
  }
}
