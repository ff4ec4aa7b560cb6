/** Builders of the messages that the gateway itself originates. None of them is on the path of a row. */
import { be, fe, protocol30, putInt32 } from "./codec.ts";

/** A message with its type byte and length from ready-made parts. */
export function message(type: number, ...parts: readonly (Uint8Array | string)[]): Buffer {
  const bytes = parts.map((part) => (typeof part === "string" ? Buffer.from(part) : part));
  const length = bytes.reduce((sum, part) => sum + part.length, 4);
  const out = Buffer.allocUnsafe(length + 1);
  out[0] = type;
  putInt32(out, 1, length);
  let at = 5;
  for (const part of bytes) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export function int32Bytes(value: number): Buffer {
  const out = Buffer.allocUnsafe(4);
  putInt32(out, 0, value);
  return out;
}

export const parseCompleteBytes = message(be.parseComplete);
export const closeCompleteBytes = message(be.closeComplete);
export const syncBytes = message(fe.sync);
export const flushBytes = message(fe.flush);
export const terminateBytes = message(fe.terminate);
export const authenticationOk = message(be.authentication, int32Bytes(0));

export function readyForQuery(status: number): Buffer {
  return message(be.readyForQuery, Uint8Array.of(status));
}

export function parameterStatus(name: string, value: string): Buffer {
  return message(be.parameterStatus, `${name}\0${value}\0`);
}

export function backendKeyData(pid: number, secret: Uint8Array): Buffer {
  return message(be.backendKeyData, int32Bytes(pid), secret);
}

export function commandComplete(tag: string): Buffer {
  return message(be.commandComplete, `${tag}\0`);
}

export function query(sql: string): Buffer {
  return message(fe.query, `${sql}\0`);
}

export function closeStatement(name: string): Buffer {
  return message(fe.close, `S${name}\0`);
}

export function describeStatement(name: string): Buffer {
  return message(fe.describe, `S${name}\0`);
}

export function saslMechanisms(names: readonly string[]): Buffer {
  return message(be.authentication, int32Bytes(10), `${names.join("\0")}\0\0`);
}

export function saslContinue(text: string): Buffer {
  return message(be.authentication, int32Bytes(11), text);
}

export function saslFinal(text: string): Buffer {
  return message(be.authentication, int32Bytes(12), text);
}

export function md5Request(salt: Uint8Array): Buffer {
  return message(be.authentication, int32Bytes(5), salt);
}

export function negotiateVersion(newestMinor: number, unknown: readonly string[]): Buffer {
  const names = unknown.map((name) => `${name}\0`).join("");
  return message(be.negotiateVersion, int32Bytes(newestMinor), int32Bytes(unknown.length), names);
}

export function startup(parameters: Iterable<readonly [string, string]>): Buffer {
  let text = "";
  for (const [name, value] of parameters) text += `${name}\0${value}\0`;
  const body = Buffer.from(`${text}\0`);
  const out = Buffer.allocUnsafe(8 + body.length);
  putInt32(out, 0, out.length);
  putInt32(out, 4, protocol30);
  out.set(body, 8);
  return out;
}

export function cancelRequest(key: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(8 + key.length);
  putInt32(out, 0, out.length);
  putInt32(out, 4, 80877102);
  out.set(key, 8);
  return out;
}

export function rowDescription(columns: readonly string[]): Buffer {
  const parts: Buffer[] = [Buffer.from([columns.length >>> 8, columns.length & 255])];
  for (const name of columns) {
    const tail = Buffer.alloc(18);
    tail.writeInt32BE(25, 6); // text
    tail.writeInt16BE(-1, 10);
    tail.writeInt32BE(-1, 12);
    parts.push(Buffer.from(`${name}\0`), tail);
  }
  return message(be.rowDescription, ...parts);
}

export function dataRow(values: readonly (string | number | null)[]): Buffer {
  const parts: Buffer[] = [Buffer.from([values.length >>> 8, values.length & 255])];
  for (const value of values) {
    if (value === null) parts.push(int32Bytes(-1));
    else {
      const bytes = Buffer.from(String(value));
      parts.push(int32Bytes(bytes.length), bytes);
    }
  }
  return message(be.dataRow, ...parts);
}
