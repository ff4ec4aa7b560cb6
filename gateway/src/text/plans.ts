/** Text in, plan out: the lexer first, then a cache of what the parser said. One per worker. */
import "../wire/buffer.ts";
import { loadModule, parseSync } from "libpg-query";
import { customNamesIn, setsUnknownNames } from "../pool/probe.ts";
import { analyse } from "./analyse.ts";
import { quickLook } from "./lexer.ts";
import { opaque, type Plan, pins, plainRead, plainWrite, unparsed } from "./plan.ts";
import { WordSet } from "./words.ts";

const cacheBytes = 16 * 1024 * 1024;
/** Longer texts are not analysed: their client is pinned. */
const longestAnalysed = 4 * 1024 * 1024;

export class Plans {
  readonly #safe = new WordSet();
  readonly #safeNames = new Set<string>();
  /** Insertion order is age: the oldest half goes when the cache is full. */
  #cache = new Map<string, Plan>();
  #older = new Map<string, Plan>();
  #bytes = 0;
  parses = 0;
  hits = 0;
  quick = 0;

  static async load(): Promise<Plans> {
    await loadModule();
    return new Plans();
  }

  get knowsFunctions(): boolean {
    return this.#safeNames.size > 0;
  }

  /** Names in pg_catalog, as the first server tells them. */
  addSafeFunctions(names: Iterable<string>): void {
    for (const name of names) {
      if (this.#safeNames.has(name)) continue;
      this.#safeNames.add(name);
      this.#safe.add(name);
    }
    this.#cache.clear();
    this.#older.clear();
    this.#bytes = 0;
  }

  /** The text in [start, end), without its terminating zero. */
  of(bytes: Buffer, start: number, end: number): Plan {
    if (end - start > longestAnalysed) return opaque;
    const look = quickLook(bytes, start, end, this.#safe);
    if (look !== "parse") {
      this.quick++;
      return look === "plain-read" ? plainRead : plainWrite;
    }
    const key = bytes.latin1Slice(start, end);
    const known = this.#cache.get(key);
    if (known !== undefined) {
      this.hits++;
      return known;
    }
    const plan = this.#older.get(key) ?? this.#parse(bytes.utf8Slice(start, end));
    this.#bytes += key.length + 200;
    if (this.#bytes > cacheBytes / 2) {
      this.#older = this.#cache;
      this.#cache = new Map();
      this.#bytes = key.length + 200;
    }
    this.#cache.set(key, plan);
    return plan;
  }

  #parse(text: string): Plan {
    this.parses++;
    if (/^\s*;*\s*$/.test(text)) return plainWrite;
    try {
      const plan = analyse(parseSync(text).stmts as never, (name) => this.#safeNames.has(name));
      if (!plan.probe || !/set/i.test(text)) return plan;
      // A function's own definition changes nothing yet.
      const opaquePin = setsUnknownNames(text) && !/^\s*create\b/i.test(text) ? pins.opaque : 0;
      return { ...plan, pins: plan.pins | opaquePin, customNames: customNamesIn(text) };
    } catch {
      return unparsed;
    }
  }
}
