/** The packets before the first typed message: startup, TLS and GSS requests, cancel. Every length is checked. */
import { cancelRequestCode, gssRequestCode, int32, maxStartupBytes, sslRequestCode } from "./codec.ts";

export type StartupPacket =
  | { readonly kind: "incomplete" }
  | { readonly kind: "invalid"; readonly reason: string }
  | { readonly kind: "ssl"; readonly bytes: number }
  | { readonly kind: "gss"; readonly bytes: number }
  | { readonly kind: "direct-tls" }
  | { readonly kind: "cancel"; readonly bytes: number; readonly key: Uint8Array }
  | {
      readonly kind: "startup";
      readonly bytes: number;
      readonly minor: number;
      readonly parameters: ReadonlyMap<string, string>;
      /** Protocol extensions (_pq_.*) that the gateway doesn't know. */
      readonly unknownOptions: readonly string[];
    };

export function readStartupPacket(bytes: Buffer, start: number, end: number): StartupPacket {
  if (end <= start) return { kind: "incomplete" };
  if (bytes[start] === 0x16) return { kind: "direct-tls" };
  if (end - start < 4) return { kind: "incomplete" };
  const length = int32(bytes, start);
  if (length < 8 || length > maxStartupBytes)
    return { kind: "invalid", reason: "invalid length of startup packet" };
  if (end - start < length) return { kind: "incomplete" };
  const code = int32(bytes, start + 4);
  switch (code) {
    case sslRequestCode:
      return length === 8
        ? { kind: "ssl", bytes: 8 }
        : { kind: "invalid", reason: "invalid length of SSL request" };
    case gssRequestCode:
      return length === 8
        ? { kind: "gss", bytes: 8 }
        : { kind: "invalid", reason: "invalid length of GSS request" };
    case cancelRequestCode:
      if (length < 16 || length > 12 + 256)
        return { kind: "invalid", reason: "invalid length of cancel request" };
      return {
        kind: "cancel",
        bytes: length,
        key: Uint8Array.from(bytes.subarray(start + 8, start + length)),
      };
    default:
      return readParameters(bytes, start, length, code);
  }
}

function readParameters(bytes: Buffer, start: number, length: number, code: number): StartupPacket {
  const major = code >>> 16;
  const minor = code & 0xffff;
  if (major !== 3) {
    return {
      kind: "invalid",
      reason: `unsupported frontend protocol ${major}.${minor}: server supports 3.0 to 3.2`,
    };
  }
  const parameters = new Map<string, string>();
  const unknownOptions: string[] = [];
  const stop = start + length;
  let at = start + 8;
  for (;;) {
    if (at >= stop)
      return { kind: "invalid", reason: "invalid startup packet layout: expected terminator as last byte" };
    if (bytes[at] === 0) {
      if (at + 1 !== stop) break;
      return { kind: "startup", bytes: length, minor, parameters, unknownOptions };
    }
    const nameEnd = bytes.indexOf(0, at);
    if (nameEnd < 0 || nameEnd + 1 >= stop) break;
    const valueEnd = bytes.indexOf(0, nameEnd + 1);
    if (valueEnd < 0 || valueEnd >= stop) break;
    const name = bytes.toString("utf8", at, nameEnd);
    if (name.startsWith("_pq_.")) unknownOptions.push(name);
    else parameters.set(name, bytes.toString("utf8", nameEnd + 1, valueEnd));
    at = valueEnd + 1;
  }
  return { kind: "invalid", reason: "invalid startup packet layout: expected terminator as last byte" };
}

export type SplitOptions =
  | { readonly settings: readonly (readonly [string, string])[] }
  | { readonly invalid: string };

/** The `options` parameter: words with backslash escapes, of which `-c name=value` and `--name=value` are settings. */
export function splitOptions(options: string): SplitOptions {
  const words: string[] = [];
  let word = "";
  let inWord = false;
  for (let at = 0; at < options.length; at++) {
    const each = options[at] as string;
    if (/\s/.test(each)) {
      if (inWord) words.push(word);
      word = "";
      inWord = false;
    } else {
      inWord = true;
      if (each === "\\" && at + 1 < options.length) word += options[++at];
      else word += each;
    }
  }
  if (inWord) words.push(word);
  const settings: [string, string][] = [];
  for (let at = 0; at < words.length; at++) {
    const each = words[at] as string;
    let pair: string;
    if (each.startsWith("--")) pair = each.slice(2);
    else if (each === "-c") pair = words[++at] ?? "";
    else if (each.startsWith("-c")) pair = each.slice(2);
    else return { invalid: each };
    const equals = pair.indexOf("=");
    if (equals <= 0) return { invalid: each };
    settings.push([pair.slice(0, equals).replaceAll("-", "_"), pair.slice(equals + 1)]);
  }
  return { settings };
}
