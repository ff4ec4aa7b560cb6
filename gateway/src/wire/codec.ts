/**
 * The wire, seen as bytes: type codes of protocol 3.x, integers, and how each message is to be treated while it
 * streams through. Rows are never decoded and never collected.
 */

/** Messages of a client. */
export const fe = {
  bind: 0x42,
  close: 0x43,
  copyData: 0x64,
  copyDone: 0x63,
  copyFail: 0x66,
  describe: 0x44,
  execute: 0x45,
  flush: 0x48,
  functionCall: 0x46,
  parse: 0x50,
  password: 0x70,
  query: 0x51,
  sync: 0x53,
  terminate: 0x58,
} as const;

/** Messages of a server. */
export const be = {
  authentication: 0x52,
  backendKeyData: 0x4b,
  bindComplete: 0x32,
  closeComplete: 0x33,
  commandComplete: 0x43,
  copyBoth: 0x57,
  copyData: 0x64,
  copyDone: 0x63,
  copyIn: 0x47,
  copyOut: 0x48,
  dataRow: 0x44,
  emptyQuery: 0x49,
  error: 0x45,
  functionResult: 0x56,
  negotiateVersion: 0x76,
  noData: 0x6e,
  notice: 0x4e,
  notification: 0x41,
  parameterDescription: 0x74,
  parameterStatus: 0x53,
  parseComplete: 0x31,
  portalSuspended: 0x73,
  readyForQuery: 0x5a,
  rowDescription: 0x54,
} as const;

export const protocol30 = 0x0003_0000;
export const protocol32 = 0x0003_0002;
export const cancelRequestCode = 80877102;
export const sslRequestCode = 80877103;
export const gssRequestCode = 80877104;

/** Transaction status in ReadyForQuery. */
export const txIdle = 0x49;
export const txOpen = 0x54;
export const txFailed = 0x45;

/** PostgreSQL's own bound of a message (PQ_LARGE_MESSAGE_LIMIT is 1 GB - 1). */
export const maxMessageBytes = 0x3fff_ffff;
export const maxStartupBytes = 10_000;
/** What a client may send before it is known who it is (PG_MAX_SASL_MESSAGE_LENGTH is 1024, passwords 65535). */
export const maxAuthMessageBytes = 65_535;

export function int32(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] as number) << 24) |
    ((bytes[at + 1] as number) << 16) |
    ((bytes[at + 2] as number) << 8) |
    (bytes[at + 3] as number)
  );
}

export function int16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

export function putInt32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** Names are shorter: looking at their bytes here is cheaper than a call out of JavaScript, which looks to the end of the buffer. */
const lookedAtHere = 48;

/** Where the zero byte is at or after `at` and before `end`, or -1. */
export function zeroAt(bytes: Uint8Array, at: number, end: number): number {
  const stop = at + lookedAtHere < end ? at + lookedAtHere : end;
  for (let next = at; next < stop; next++) if (bytes[next] === 0) return next;
  if (stop >= end) return -1;
  const found = bytes.indexOf(0, stop);
  return found < end ? found : -1;
}
