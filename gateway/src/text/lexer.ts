/**
 * A quick look at a statement's bytes (well under a microsecond for a short one): is it plainly one statement that
 * reads or writes rows and calls only functions known to leave the session alone? Anything else goes to the parser,
 * so a doubt is always resolved towards "parse".
 */
import {
  hashStart,
  hashStep,
  intoWord,
  lockWords,
  readWords,
  tellingWords,
  type WordSet,
  wordsBeforeParenthesis,
  writeWords,
} from "./words.ts";

export type QuickLook = "plain-read" | "plain-write" | "parse";

const classSpace = 1;
const classWord = 2; // letter, underscore, byte above 127
const classDigit = 3;

const classes = new Uint8Array(256);
for (const each of " \t\n\r\f\v") classes[each.charCodeAt(0)] = classSpace;
for (let byte = 0; byte < 256; byte++) {
  const letter = (byte | 32) >= 0x61 && (byte | 32) <= 0x7a;
  if (letter || byte === 0x5f || byte >= 0x80) classes[byte] = classWord;
  if (byte >= 0x30 && byte <= 0x39) classes[byte] = classDigit;
}

const quote = 0x27;
const doubleQuote = 0x22;
const dollar = 0x24;
const dot = 0x2e;
const open = 0x28;
const semicolon = 0x3b;
const minus = 0x2d;
const slash = 0x2f;
const star = 0x2a;
const backslash = 0x5c;

/** `safeFunctions`: names in pg_catalog. */
export function quickLook(bytes: Uint8Array, start: number, end: number, safeFunctions: WordSet): QuickLook {
  let at = start;
  let first = true;
  let reads = false;
  let writes = false;
  let insert = false;
  /** After `into` or `update`, the name of a table may stand before a parenthesis. */
  let tableNext = false;
  let afterDot = false;
  let qualifiedByCatalog = false;
  while (at < end) {
    const byte = bytes[at] as number;
    const kind = classes[byte];
    if (kind === classSpace) {
      at++;
      continue;
    }
    if (kind === classWord || byte === doubleQuote) {
      const wordStart = byte === doubleQuote ? at + 1 : at;
      let hash = hashStart;
      const quoted = byte === doubleQuote;
      if (quoted) {
        at++;
        while (at < end && bytes[at] !== doubleQuote) hash = hashStep(hash, bytes[at++] as number);
        if (at >= end || bytes[at + 1] === doubleQuote) return "parse";
      } else {
        for (; at < end; at++) {
          let each = bytes[at] as number;
          if (each >= 0x41 && each <= 0x5a) each += 32;
          else if (classes[each] !== classWord && classes[each] !== classDigit && each !== dollar) break;
          hash = hashStep(hash, each);
        }
        // E'…', U&'…', U&"…", B'…', X'…', N'…': strings with other rules
        const next = bytes[at];
        if (
          at < end &&
          (next === quote ||
            (next === 0x26 && at === wordStart + 1 && (bytes[wordStart] as number | 32) === 0x75))
        ) {
          const letter = (bytes[wordStart] as number) | 32;
          if (at !== wordStart + 1 || letter === 0x65 || letter === 0x75) {
            if (at === wordStart + 1) return "parse";
          }
        }
      }
      const wordEnd = at;
      if (quoted) at++;
      if (first) {
        if (quoted) return "parse";
        if (readWords.has(hash, bytes, wordStart, wordEnd, true)) reads = true;
        else if (writeWords.has(hash, bytes, wordStart, wordEnd, true)) {
          writes = true;
          insert = ((bytes[wordStart] as number) | 32) === 0x69;
        } else return "parse";
        first = false;
        continue;
      }
      if (tellingWords.has(hash, bytes, wordStart, wordEnd, !quoted)) return "parse";
      if (!quoted && !afterDot) {
        if (reads && lockWords.has(hash, bytes, wordStart, wordEnd, true)) {
          reads = false;
          writes = true;
        }
        if (intoWord.has(hash, bytes, wordStart, wordEnd, true)) {
          if (!insert || tableNext) return "parse";
          tableNext = true;
          insert = false;
          continue;
        }
      }
      // What follows: a parenthesis makes it a call, a dot a qualifier
      while (at < end && classes[bytes[at] as number] === classSpace) at++;
      const following = at < end ? bytes[at] : 0;
      if (following === dot) {
        qualifiedByCatalog = wordEnd - wordStart === 10 && isCatalog(bytes, wordStart);
        afterDot = true;
        at++;
        while (at < end && classes[bytes[at] as number] === classSpace) at++;
        continue;
      }
      if (following === slash || following === minus) {
        if (bytes[at + 1] === star || bytes[at + 1] === minus) return "parse"; // a comment before a parenthesis
      }
      if (following === open) {
        if (tableNext) tableNext = false;
        else if (afterDot) {
          if (!qualifiedByCatalog || !safeFunctions.has(hash, bytes, wordStart, wordEnd, !quoted))
            return "parse";
        } else if (
          (quoted || !wordsBeforeParenthesis.has(hash, bytes, wordStart, wordEnd, true)) &&
          !safeFunctions.has(hash, bytes, wordStart, wordEnd, !quoted)
        ) {
          return "parse";
        }
      } else tableNext = false;
      afterDot = false;
      continue;
    }
    if (byte === quote) {
      at = skipString(bytes, at, end);
      if (at < 0) return "parse";
    } else if (byte === dollar) {
      at++;
      if (at < end && classes[bytes[at] as number] === classDigit) {
        while (at < end && classes[bytes[at] as number] === classDigit) at++;
      } else return "parse"; // dollar quotes are rare in statements that are worth this shortcut
    } else if (byte === minus && bytes[at + 1] === minus) {
      const line = bytes.indexOf(0x0a, at);
      at = line < 0 || line >= end ? end : line + 1;
    } else if (byte === slash && bytes[at + 1] === star) {
      at = skipComment(bytes, at, end);
      if (at < 0) return "parse";
    } else if (byte === semicolon) {
      at++;
      while (at < end && (classes[bytes[at] as number] === classSpace || bytes[at] === semicolon)) at++;
      if (at < end) return "parse";
    } else {
      at++;
      afterDot = false;
    }
  }
  if (first) return "parse";
  return reads && !writes ? "plain-read" : "plain-write";
}

function isCatalog(bytes: Uint8Array, at: number): boolean {
  const name = "pg_catalog";
  for (let each = 0; each < 10; each++)
    if (((bytes[at + each] as number) | 32) !== (name.charCodeAt(each) | 32)) return false;
  return true;
}

function skipString(bytes: Uint8Array, start: number, end: number): number {
  let at = start + 1;
  while (at < end) {
    const byte = bytes[at] as number;
    if (byte === backslash) return -1; // depends on standard_conforming_strings
    if (byte === quote) {
      if (bytes[at + 1] === quote && at + 1 < end) at += 2;
      else return at + 1;
    } else at++;
  }
  return -1;
}

function skipComment(bytes: Uint8Array, start: number, end: number): number {
  let depth = 0;
  let at = start;
  while (at + 1 < end) {
    if (bytes[at] === slash && bytes[at + 1] === star) {
      depth++;
      at += 2;
    } else if (bytes[at] === star && bytes[at + 1] === slash) {
      depth--;
      at += 2;
      if (depth === 0) return at;
    } else at++;
  }
  return -1;
}
