/** Words that the lexer knows: a hash finds the candidate, its bytes are compared. */
export class WordSet {
  readonly #buckets = new Map<number, Uint8Array[]>();
  /** Zero where no word's hash ends so: most words of a statement need no more than this look. */
  readonly #endings = new Uint8Array(4096);

  constructor(words: Iterable<string> = []) {
    for (const word of words) this.add(word);
  }

  add(word: string): void {
    const bytes = new TextEncoder().encode(word);
    let hash = hashStart;
    for (const byte of bytes) hash = hashStep(hash, byte);
    this.#endings[hash & 4095] = 1;
    const bucket = this.#buckets.get(hash);
    if (bucket === undefined) this.#buckets.set(hash, [bytes]);
    else if (!bucket.some((each) => sameWord(each, bytes, 0, bytes.length, false))) bucket.push(bytes);
  }

  get size(): number {
    return this.#buckets.size;
  }

  /** `hash` is that of the (lower-cased, if `fold`) bytes in [start, end). */
  has(hash: number, bytes: Uint8Array, start: number, end: number, fold: boolean): boolean {
    if (this.#endings[hash & 4095] === 0) return false;
    const bucket = this.#buckets.get(hash);
    if (bucket === undefined) return false;
    for (const each of bucket) if (sameWord(each, bytes, start, end, fold)) return true;
    return false;
  }
}

export const hashStart = 0x811c9dc5 | 0;

export function hashStep(hash: number, byte: number): number {
  return Math.imul(hash ^ byte, 0x01000193);
}

function sameWord(word: Uint8Array, bytes: Uint8Array, start: number, end: number, fold: boolean): boolean {
  if (word.length !== end - start) return false;
  for (let at = 0; at < word.length; at++) {
    let byte = bytes[start + at] as number;
    if (fold && byte >= 0x41 && byte <= 0x5a) byte += 32;
    if (byte !== word[at]) return false;
  }
  return true;
}

/** First words of statements that read or write rows and have no effect on the session by themselves. */
export const readWords = new WordSet(["select", "values", "table"]);
export const writeWords = new WordSet(["insert", "update", "delete", "merge"]);

/** Anywhere in such a statement, these make the parser look at it. */
export const tellingWords = new WordSet([
  "set_config",
  "setseed",
  "currval",
  "pg_backend_pid",
  "lastval",
  "pg_advisory_lock",
  "pg_advisory_lock_shared",
  "pg_try_advisory_lock",
  "pg_try_advisory_lock_shared",
  "pg_advisory_unlock",
  "pg_advisory_unlock_shared",
  "pg_advisory_unlock_all",
  "pg_prepared_statements",
  "pg_prepared_statement",
  "pg_cursors",
  "pg_cursor",
  "pg_temp",
  "pg_my_temp_schema",
  "pg_settings",
  "pg_listening_channels",
  "query_to_xml",
  "query_to_xmlschema",
  "query_to_xml_and_xmlschema",
  "cursor_to_xml",
  "cursor_to_xmlschema",
  "ts_stat",
  "ts_rewrite",
  "pg_backup_start",
  "pg_backup_stop",
  "pg_replication_origin_session_setup",
  "pg_replication_origin_session_reset",
  "pg_replication_origin_xact_setup",
  "pg_replication_origin_xact_reset",
  "pg_create_physical_replication_slot",
  "pg_create_logical_replication_slot",
  "pg_copy_physical_replication_slot",
  "pg_copy_logical_replication_slot",
]);

/** In a reading statement, these make it a writing one (or one that has to be parsed). */
export const lockWords = new WordSet(["for", "nextval", "setval", "lo_import", "lo_create", "pg_notify"]);
export const intoWord = new WordSet(["into"]);

/** Words that may stand before a parenthesis without being a function. */
export const wordsBeforeParenthesis = new WordSet(
  (
    "all and any array as asc between bigint bit boolean by case cast char character check coalesce conflict cross " +
    "cube decimal default delete desc distinct do else end except exists extract filter float for from full greatest group " +
    "grouping having ilike in inner insert int integer intersect interval into is isnull join lateral least left like limit " +
    "materialized not notnull nullif numeric offset on only or order outer over overlay partition position " +
    "precision range recursive returning right rollup row rows select set sets similar some substring symmetric table " +
    "then time timestamp timestamptz trim treat union unique update using values varchar varying when where window with within " +
    "key matched merge nothing text numeric bpchar"
  ).split(" "),
);
