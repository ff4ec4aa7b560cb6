/** Keeps secrets out of logs: by the name of a field, and inside texts such as connection strings. */

const secretName =
  /pass(word|phrase|wd|file_?content)|secret|token|credential|private_?key|cipher_?pass|authorization/i;
/** A name such as `passwordFile` says where a secret is, which is no secret. */
const placeName = /(file|path|dir|directory)$/i;
const redacted = "[redacted]";
const maxDepth = 6;

/** `password=…` in conninfo and options, and the password of a URL. */
export function redactText(text: string): string {
  return text
    .replace(
      /(\b\w*(?:password|passphrase|secret|token)\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'",;]+)/gi,
      `$1${redacted}`,
    )
    .replace(/(\b[a-z][a-z0-9+.-]*:\/\/[^\s:/@]*):[^\s/@]*@/gi, `$1:${redacted}@`)
    .replace(/(\bpassword\s+)'(?:[^']|'')*'/gi, `$1'${redacted}'`);
}

function redactValue(value: unknown, depth: number): unknown {
  if (typeof value === "string") return redactText(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Date) return value;
  if (depth >= maxDepth) return "[deep]";
  if (value instanceof Error) return redactError(value, depth);
  if (Array.isArray(value)) return value.map((each) => redactValue(each, depth + 1));
  if (value instanceof Map || value instanceof Set) return redactValue([...value], depth);
  return redactFields(value, depth);
}

function redactFields(value: object, depth: number): Record<string, unknown> {
  const copy: Record<string, unknown> = {};
  for (const [key, each] of Object.entries(value)) {
    const secret = secretName.test(key) && !placeName.test(key) && each !== undefined && each !== null;
    copy[key] = secret ? redacted : redactValue(each, depth + 1);
  }
  return copy;
}

function redactError(error: Error, depth: number): Record<string, unknown> {
  return {
    type: error.name,
    message: redactText(error.message),
    ...redactFields(error, depth),
    ...(error.stack === undefined ? {} : { stack: redactText(error.stack) }),
    ...(error.cause === undefined ? {} : { cause: redactValue(error.cause, depth + 1) }),
  };
}

/** A copy of a log record's fields without secrets; bigint becomes text, an Error its message, code and stack. */
export function redact(fields: object): Record<string, unknown> {
  return redactFields(fields, 0);
}
