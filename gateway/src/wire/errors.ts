/** ErrorResponse and NoticeResponse: ours with SQLSTATE, reason and hint, the server's read for its code. */
import { message } from "./build.ts";
import { be } from "./codec.ts";

export type WireError = {
  readonly severity: "ERROR" | "FATAL" | "NOTICE" | "WARNING";
  readonly code: string;
  readonly message: string;
  readonly detail?: string;
  readonly hint?: string;
  readonly routine?: string;
};

export function wireError(
  severity: WireError["severity"],
  code: string,
  text: string,
  more: { detail?: string; hint?: string; routine?: string } = {},
): WireError {
  return { severity, code, message: text, ...more };
}

export function errorBytes(error: WireError): Buffer {
  let fields = `S${error.severity}\0V${error.severity}\0C${error.code}\0M${error.message}\0`;
  if (error.detail !== undefined) fields += `D${error.detail}\0`;
  if (error.hint !== undefined) fields += `H${error.hint}\0`;
  if (error.routine !== undefined) fields += `R${error.routine}\0`;
  const type = error.severity === "NOTICE" || error.severity === "WARNING" ? be.notice : be.error;
  return message(type, `${fields}\0`);
}

/** The fields of a whole ErrorResponse that starts at `start` (its type byte). */
export function readErrorFields(bytes: Buffer, start: number, end: number): Map<string, string> {
  const fields = new Map<string, string>();
  let at = start + 5;
  while (at < end && bytes[at] !== 0) {
    const stop = bytes.indexOf(0, at + 1);
    if (stop < 0 || stop >= end) break;
    fields.set(String.fromCharCode(bytes[at] as number), bytes.toString("utf8", at + 1, stop));
    at = stop + 1;
  }
  return fields;
}

export function readError(bytes: Buffer, start: number, end: number): WireError {
  const fields = readErrorFields(bytes, start, end);
  const severity = fields.get("V") ?? fields.get("S");
  const detail = fields.get("D");
  const hint = fields.get("H");
  return {
    severity: severity === "FATAL" || severity === "PANIC" ? "FATAL" : "ERROR",
    code: fields.get("C") ?? "XX000",
    message: fields.get("M") ?? "",
    ...(detail === undefined ? {} : { detail }),
    ...(hint === undefined ? {} : { hint }),
  };
}
