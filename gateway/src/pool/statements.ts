/**
 * Prepared statements shared by the clients of a pool: one name on the servers per (text, parameter types, settings
 * that matter for parsing). A client's own names map to these.
 */
import type { Plan } from "../text/plan.ts";

export class Statement {
  /** What follows the name in Parse: text, zero, parameter types. */
  readonly body: Buffer;
  readonly serverName: Buffer;
  readonly plan: Plan;
  readonly key: string;
  /** How often it was parsed; a text that comes only once isn't worth a name. */
  seen = 0;
  /** The settings that its text depends on. */
  readonly parseKey: string;
  /** Who parses its text gets it, not one that was made after definitions had changed. */
  current = true;

  constructor(id: number, key: string, parseKey: string, body: Buffer, plan: Plan) {
    this.key = key;
    this.parseKey = parseKey;
    this.body = body;
    this.serverName = Buffer.from(`${serverNamePrefix}${id}`);
    this.plan = plan;
  }
}

/** Clients can't reach statements of these names by chance: they are the pool's. */
/** Whether this text in [start, end) is the statement's: cheaper than to look it up. */
export function isText(
  { body, parseKey, current }: Statement,
  key: string,
  bytes: Buffer,
  start: number,
  end: number,
): boolean {
  const { length } = body;
  if (!current || end - start !== length || parseKey !== key || length > mostCompared) return false;
  // From the end: what texts have in common is rather their beginning.
  for (let at = length - 1, from = end - 1; at >= 0; at--, from--) if (body[at] !== bytes[from]) return false;
  return true;
}
const mostCompared = 512;

export const serverNamePrefix = "__quorate_";

const mostStatements = 20_000;

export class Statements {
  #known = new Map<string, Statement>();
  #older = new Map<string, Statement>();
  #nextId = 1;
  /** Grows when definitions change: what was prepared before may have another result now. */
  epoch = 0;

  /** `[start, end)`: what follows the name in a Parse message. */
  intern(
    bytes: Buffer,
    start: number,
    end: number,
    parseKey: string,
    plan: (body: Buffer) => Plan,
  ): Statement {
    const key =
      parseKey === "" ? bytes.latin1Slice(start, end) : `${bytes.latin1Slice(start, end)}\0${parseKey}`;
    let statement = this.#known.get(key);
    if (statement === undefined) {
      statement = this.#older.get(key);
      if (statement === undefined) {
        const body = Buffer.from(bytes.subarray(start, end));
        statement = new Statement(this.#nextId++, key, parseKey, body, plan(body));
      }
      if (this.#known.size >= mostStatements / 2) {
        this.#older = this.#known;
        this.#known = new Map();
      }
      this.#known.set(key, statement);
    }
    statement.seen++;
    return statement;
  }

  /**
   * Definitions have changed: who parses the text from now on gets another statement. Those who have the old one keep
   * it, with its old plan, so that PostgreSQL tells them if their description of it is wrong.
   */
  renew(old: Statement): Statement {
    old.current = false;
    const current = this.#known.get(old.key) ?? this.#older.get(old.key);
    if (current !== undefined && current !== old) return current;
    const made = new Statement(this.#nextId++, old.key, old.parseKey, old.body, old.plan);
    made.seen = old.seen;
    this.#known.set(old.key, made);
    return made;
  }

  get size(): number {
    return this.#known.size + this.#older.size;
  }
}
