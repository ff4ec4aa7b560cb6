// The vocabulary of the whole project: terms, log positions, node names. Everything here is a plain value.

declare const brand: unique symbol;
type Branded<Base, Name extends string> = Base & { readonly [brand]: Name };

/** Unsigned 32-bit; a term is a Postgres timeline. 0 means "none yet". */
export type Term = Branded<number, "Term">;
/** Byte position in the write-ahead log, unsigned 64-bit. 0 means "none". */
export type Lsn = Branded<bigint, "Lsn">;
/** Name of one Postgres instance and its sidecar. */
export type NodeId = Branded<string, "NodeId">;
/** Names one start of one coordinator process: never reused, not even by a restart of the same orchestrator. */
export type CoordinatorId = Branded<string, "CoordinatorId">;

export const maxTerm = 0xffff_ffff;
const maxLsn = 0xffff_ffff_ffff_ffffn;

export function term(value: number): Term {
  if (!Number.isInteger(value) || value < 0 || value > maxTerm) {
    throw new RangeError(`a term is an unsigned 32-bit number, not ${value}`);
  }
  return value as Term;
}

export function lsn(value: bigint | number): Lsn {
  const big = BigInt(value);
  if (big < 0n || big > maxLsn) {
    throw new RangeError(`an LSN is an unsigned 64-bit number, not ${big}`);
  }
  return big as Lsn;
}

const nodeIdPattern = /^[a-z][a-z0-9_-]{0,62}$/;

export function isNodeId(text: string): text is NodeId {
  return nodeIdPattern.test(text);
}

export function nodeId(text: string): NodeId {
  if (!isNodeId(text)) {
    throw new RangeError(`"${text}" is no node id: a lower-case letter, then at most 62 of a-z 0-9 _ -`);
  }
  return text;
}

export function coordinatorId(text: string): CoordinatorId {
  if (text === "") {
    throw new RangeError("a coordinator id must not be empty");
  }
  return text as CoordinatorId;
}

export const noTerm = 0 as Term;
export const noLsn = 0n as Lsn;

const lsnPattern = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** Postgres's notation, "0/16B3740"; null when the text is none. The empty string is "unknown", thus null too. */
export function parseLsn(text: string): Lsn | null {
  const match = lsnPattern.exec(text);
  if (match === null) {
    return null;
  }
  return ((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`)) as Lsn;
}

export function formatLsn(value: Lsn): string {
  const high = value >> 32n;
  const low = value & 0xffff_ffffn;
  return `${high.toString(16).toUpperCase()}/${low.toString(16).toUpperCase()}`;
}

/** Term of the last record in a log and the LSN where that record ends: Raft's (lastLogTerm, lastLogIndex). */
export interface Position {
  readonly term: Term;
  readonly lsn: Lsn;
}

export const noPosition: Position = { term: noTerm, lsn: noLsn };

/** Negative when a is behind b. The term counts first: a longer log of an older term is behind. */
export function comparePositions(a: Position, b: Position): number {
  if (a.term !== b.term) {
    return a.term - b.term;
  }
  return a.lsn < b.lsn ? -1 : a.lsn > b.lsn ? 1 : 0;
}

export function formatPosition(position: Position): string {
  return `${position.term}:${formatLsn(position.lsn)}`;
}

export function parsePosition(text: string): Position | null {
  const colon = text.indexOf(":");
  const termText = text.slice(0, colon);
  const value = parseLsn(text.slice(colon + 1));
  if (colon < 1 || !/^\d{1,10}$/.test(termText) || Number(termText) > maxTerm || value === null) {
    return null;
  }
  return { term: term(Number(termText)), lsn: value };
}

export function compareIds(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

export function assertNever(value: never): never {
  throw new Error(`unexpected value: ${JSON.stringify(value)}`);
}

/** Stays on in production: a broken assumption of the core stops it rather than lets it guess. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) {
    throw new Error(`broken invariant: ${message}`);
  }
}
