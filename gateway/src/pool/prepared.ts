/** The shared statements that one server connection has, and what is known of them there. */
import type { Statement } from "./statements.ts";

const mostStatements = 500;

export class Prepared {
  readonly #here = new Set<Statement>();
  /** The shapes of their rows here, as far as somebody had them described. */
  readonly #rows = new Map<Statement, number>();
  /** The types of their parameters here, likewise: what stands in ParameterDescription. */
  readonly #types = new Map<Statement, Buffer>();
  /** Their old plans are still here under their names. */
  readonly #stale = new Set<Statement>();
  #epoch = 0;
  #suspects: Set<Statement> | undefined;

  get size(): number {
    return this.#here.size;
  }

  has(statement: Statement): boolean {
    return this.#here.has(statement);
  }

  add(statement: Statement): void {
    this.#forget(statement);
    this.#here.add(statement);
  }

  /** Its plan is stale: it will be prepared anew when it's needed. */
  drop(statement: Statement): void {
    this.#here.delete(statement);
    this.#forget(statement);
    this.#stale.add(statement);
  }

  #forget(statement: Statement): void {
    this.#rows.delete(statement);
    this.#types.delete(statement);
  }

  /** None of them is there any more. */
  clear(): void {
    this.#here.clear();
    this.#rows.clear();
    this.#types.clear();
  }

  /** All that stand under names of ours, which the caller closes. */
  takeAll(): ReadonlySet<Statement> {
    const all = new Set([...this.#here, ...this.#stale]);
    this.clear();
    this.#stale.clear();
    return all;
  }

  /** The oldest, when there are too many; no longer one of this connection's. */
  evict(): Statement | undefined {
    if (this.#here.size < mostStatements) return undefined;
    for (const oldest of this.#here) {
      this.#here.delete(oldest);
      this.#forget(oldest);
      return oldest;
    }
    return undefined;
  }

  /** True, once, for a statement whose old plan is still there under its name. */
  takeStale(statement: Statement): boolean {
    return this.#stale.delete(statement);
  }

  /** It was prepared here before definitions changed: who parses it anew must not get the old plan. */
  outdated(statement: Statement, epoch: number): boolean {
    if (this.#epoch !== epoch) {
      this.#epoch = epoch;
      this.#suspects = new Set(this.#here);
    }
    return this.#suspects?.delete(statement) ?? false;
  }

  rows(statement: Statement): number | undefined {
    return this.#rows.get(statement);
  }

  noteRows(statement: Statement, shape: number): void {
    if (this.#rows.get(statement) !== shape && this.#here.has(statement)) this.#rows.set(statement, shape);
  }

  types(statement: Statement): Buffer | undefined {
    return this.#types.get(statement);
  }

  /** What a ParameterDescription in [start, end) says; undefined if there are no parameters. */
  noteTypes(statement: Statement, bytes: Buffer, start: number, end: number): Buffer | undefined {
    if (end - start <= 7) return undefined;
    const known = this.#types.get(statement);
    if (known?.compare(bytes, start + 5, end) === 0) return known;
    const types = Buffer.from(bytes.subarray(start + 5, end));
    if (this.#here.has(statement)) this.#types.set(statement, types);
    return types;
  }
}
