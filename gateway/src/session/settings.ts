/**
 * Session settings as immutable, interned values: "does this server connection have this client's settings?" is a
 * comparison of pointers. `Settings` holds what was set explicitly, on top of the server's own defaults.
 */

import { parseReadLevel, type ReadLevel } from "../route/choose-follower.ts";
import { mattersForParsing } from "../text/analyse.ts";
import { parameterStatus } from "../wire/build.ts";

export class Settings {
  readonly values: ReadonlyMap<string, string>;
  readonly key: string;
  /** The part that can change what a statement's text means: part of the key of a shared prepared statement. */
  readonly parseKey: string;
  /** Names the session's temporary schema, which a mere look at it makes. */
  readonly tempPath: boolean;

  constructor(values: ReadonlyMap<string, string>, key: string) {
    this.values = values;
    this.key = key;
    this.parseKey = keyOf(values, mattersForParsing);
    this.tempPath = /\bpg_temp\b/.test(values.get("search_path") ?? "");
  }

  same(other: Settings): boolean {
    return this === other || this.key === other.key;
  }
}

function keyOf(values: ReadonlyMap<string, string>, wanted: (name: string) => boolean): string {
  const names = [...values.keys()].filter(wanted).sort();
  return names.length === 0 ? "" : JSON.stringify(names.map((name) => [name, values.get(name)]));
}

const mostInterned = 10_000;
let interned = new Map<string, Settings>();

export function settingsOf(values: ReadonlyMap<string, string>): Settings {
  const key = keyOf(values, () => true);
  const known = interned.get(key);
  if (known !== undefined) return known;
  if (interned.size >= mostInterned) interned = new Map(); // old ones stay comparable by key
  const made = new Settings(new Map(values), key);
  interned.set(key, made);
  return made;
}

export const noSettings: Settings = settingsOf(new Map());

/** One change: null is "back to the default". */
export type Change = { readonly name: string; readonly value: string | null } | "reset-all";

/** `defaults`: what "back to the default" means in this session (its startup parameters). */
export function changeSettings(from: Settings, changes: readonly Change[], defaults: Settings): Settings {
  if (changes.length === 0) return from;
  let values = new Map(from.values);
  for (const change of changes) {
    if (change === "reset-all") {
      values = new Map(defaults.values);
      continue;
    }
    const value = change.value ?? defaults.values.get(change.name);
    if (value === undefined) values.delete(change.name);
    else values.set(change.name, value);
  }
  return settingsOf(values);
}

function literal(text: string): string {
  const quoted = `'${text.replaceAll("'", "''")}'`;
  return text.includes("\\") ? ` E${quoted.replaceAll("\\", "\\\\")}` : quoted;
}

/**
 * What is set is added to what was there: DateStyle is style and order of the parts in one. (PostgreSQL has no other
 * setting whose new value depends on its old one.) The server reports what came of it.
 */
export const setInParts: ReadonlySet<string> = new Set(["datestyle"]);

/** The gateway's own wishes that an older version of the extension doesn't know: it does without. */
const mayBeMissing: ReadonlySet<string> = new Set(["quorate.staleness_timeout"]);

/** SQL that turns a session with `from` into one with `to`, or "" if nothing differs. One row, to be discarded. */
export function settingsChangeSql(from: Settings, to: Settings, optional = mayBeMissing): string {
  if (from.same(to)) return "";
  const resets: string[] = [];
  const sets: string[] = [];
  for (const name of from.values.keys()) {
    if (to.values.has(name)) continue;
    if (optional.has(name)) sets.push(setIfKnown(name, "NULL"));
    else resets.push(`RESET ${name.split(".").map(quoteName).join(".")}`);
  }
  for (const [name, value] of to.values) {
    const before = from.values.get(name);
    if (before === value) continue;
    // The parts that its value doesn't name would be those of the client before.
    if (before !== undefined && setInParts.has(name)) resets.push(`RESET ${name}`);
    if (optional.has(name)) sets.push(setIfKnown(name, literal(value)));
    else sets.push(`pg_catalog.set_config(${literal(name)},${literal(value)},false)`);
  }
  if (sets.length > 0) resets.push(`SELECT ${sets.join(",")}`);
  return resets.join(";");
}

/** Of a prefix that an extension has reserved, unknown names can't even be made. NULL: back to the default. */
function setIfKnown(name: string, value: string): string {
  const quoted = literal(name);
  return `CASE WHEN pg_catalog.current_setting(${quoted},true) IS NOT NULL THEN pg_catalog.set_config(${quoted},${value},false) END`;
}

function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** What the server has reported of itself (ParameterStatus), interned as well. */
export class Reported {
  readonly values: ReadonlyMap<string, string>;
  /** Where reads of a session that reports this may be answered. */
  readonly readLevel: ReadLevel;
  readonly #lower = new Map<string, string>();
  #messages: Buffer | undefined;

  constructor(values: ReadonlyMap<string, string>) {
    this.values = values;
    this.readLevel = parseReadLevel(values.get("quorate.read"));
    for (const [name, value] of values) this.#lower.set(name.toLowerCase(), value);
  }

  /** All of it, as a client hears it after its login. */
  get messages(): Buffer {
    this.#messages ??= Buffer.concat([...this.values].map(([name, value]) => parameterStatus(name, value)));
    return this.#messages;
  }

  /** By its name in lower case. */
  get(name: string): string | undefined {
    return this.#lower.get(name);
  }

  with(name: string, value: string): Reported {
    if (this.values.get(name) === value) return this;
    const values = new Map(this.values);
    values.set(name, value);
    const key = [...values].map(([each, text]) => `${each}\0${text}`).join("\0");
    const known = reports.get(key);
    if (known !== undefined) return known;
    if (reports.size >= mostInterned) reports = new Map();
    const made = new Reported(values);
    reports.set(key, made);
    return made;
  }
}

let reports = new Map<string, Reported>();
export const nothingReported = new Reported(new Map());
