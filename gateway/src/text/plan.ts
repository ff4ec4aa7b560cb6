/** What a statement's text says about the session: filled by analyse.ts, read by the sessions. */

/** Reasons for keeping a client on its server connection, as bits. */
export const pins = {
  temp: 1,
  holdCursor: 2,
  advisoryLock: 4,
  listen: 8,
  prepared: 16,
  role: 32,
  sequence: 64,
  seed: 128,
  load: 256,
  opaque: 512,
  replication: 1024,
  unknown: 2048,
  session: 4096,
  process: 8192,
  /** temp_buffers was set: once they are used, a process can't have more or less of them. */
  buffers: 16_384,
} as const;

const pinNames: readonly (readonly [number, string])[] = [
  [pins.temp, "temporary object"],
  [pins.holdCursor, "cursor with hold"],
  [pins.advisoryLock, "session advisory lock"],
  [pins.listen, "listen"],
  [pins.prepared, "prepare"],
  [pins.role, "role"],
  [pins.sequence, "currval or lastval"],
  [pins.seed, "setseed"],
  [pins.load, "load"],
  [pins.opaque, "statement that can't be analysed"],
  [pins.replication, "replication"],
  [pins.unknown, "session state unknown"],
  [pins.session, "session of its own"],
  [pins.process, "pg_backend_pid"],
  [pins.buffers, "temp_buffers"],
];

export function pinReasons(bits: number): string[] {
  return pinNames.filter(([bit]) => (bits & bit) !== 0).map(([, name]) => name);
}

/** Pins that looking at the server's state can confirm or lift. */
export const probedPins =
  pins.temp | pins.holdCursor | pins.advisoryLock | pins.listen | pins.prepared | pins.role | pins.unknown;

/** The effect of one statement of the text when it completes. */
export type Effect =
  | { readonly kind: "none" }
  /** A session setting; `value` null means back to its default. */
  | { readonly kind: "set"; readonly name: string; readonly value: string | null }
  | { readonly kind: "reset-all" }
  | { readonly kind: "begin" }
  | { readonly kind: "commit" }
  | { readonly kind: "rollback" }
  | { readonly kind: "savepoint"; readonly name: string }
  | { readonly kind: "release"; readonly name: string }
  | { readonly kind: "rollback-to"; readonly name: string }
  | { readonly kind: "deallocate-all" }
  | { readonly kind: "discard-all" }
  | { readonly kind: "discard-sequences" };

export const noEffect: Effect = { kind: "none" };

export type Plan = {
  /** Nothing but reading: a follower may answer it. */
  readonly read: boolean;
  /** Begins a transaction that only reads. */
  readonly readOnly: boolean;
  /** Nothing but effects that are known: settings, begin, commit. */
  readonly pure: boolean;
  /** Begins a transaction and does nothing else: in vain, it has done nothing. */
  readonly begins: boolean;
  /** The session's state has to be looked at when the transaction has ended. */
  readonly probe: boolean;
  /** Pins that start with this statement and can't be looked up on the server. */
  readonly pins: number;
  /** One per statement; null when none has an effect. */
  readonly effects: readonly Effect[] | null;
  /** Speaks of prepared statements by their names (PREPARE, EXECUTE, DEALLOCATE name, pg_prepared_statements). */
  readonly sqlPrepare: boolean;
  /** Changes, if only for the transaction, a setting that texts depend on (search_path, DateStyle …), or might. */
  readonly changesParsing: boolean;
  /** Settings of one's own making that the text may change inside a function or DO block. */
  readonly customNames?: readonly string[];
  /** What sessions of a role or database begin with changes. */
  readonly changesDefaults: boolean;
  /** Passwords, or who may log in, may change. */
  readonly changesLogins: boolean;
  /** Definitions change: shared prepared statements may become stale. */
  readonly ddl: boolean;
};

export const plainRead: Plan = {
  read: true,
  readOnly: false,
  pure: false,
  begins: false,
  probe: false,
  pins: 0,
  effects: null,
  sqlPrepare: false,
  changesParsing: false,
  ddl: false,
  changesDefaults: false,
  changesLogins: false,
};
export const plainWrite: Plan = { ...plainRead, read: false };
/** For text that the parser doesn't understand: the server will most likely refuse it; look afterwards. */
export const unparsed: Plan = { ...plainWrite, probe: true, changesParsing: true };
/** For text too long to be looked at. */
export const opaque: Plan = { ...plainWrite, probe: true, pins: pins.opaque, changesParsing: true };
