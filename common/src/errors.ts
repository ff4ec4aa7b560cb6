/**
 * Errors have a stable code: programs and operators look it up, the message is for reading.
 *
 * Each workspace keeps its own rows in `src/error-codes.ts`, made with `defineErrors` and exported as `errorTable`.
 * All rows together are docs/errors.md (`npm run docs:errors` writes it, a test compares it).
 */

export type ErrorRow = {
  /** What has happened, in one sentence. */
  readonly means: string;
  /** What the reader can do about it, in one sentence. */
  readonly todo: string;
};

export type ErrorTable = Readonly<Record<string, ErrorRow>>;

export type ErrorOptions = {
  readonly cause?: unknown;
  /** Facts for the log; never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
};

/** The one base class. Expected refusals (a stale term) are return values, not errors. */
export class QuorateError extends Error {
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "QuorateError";
    this.code = code;
    this.details = options.details ?? {};
  }
}

const codePattern = /^[a-z][a-z0-9]*(_[a-z0-9]+)*$/;

/** Checks the rows and gives back a constructor that accepts only their codes. */
export function defineErrors<const Table extends ErrorTable>(table: Table) {
  for (const [code, row] of Object.entries(table)) {
    if (!codePattern.test(code)) throw new Error(`error code "${code}" is not snake_case`);
    if (row.means === "" || row.todo === "") throw new Error(`error code "${code}" lacks its explanation`);
  }
  return {
    table,
    error(code: keyof Table & string, message: string, options: ErrorOptions = {}): QuorateError {
      return new QuorateError(code, message, options);
    },
  };
}

/** The code of any thrown value: ours, the system's (`ENOENT`), or undefined. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** The message of any thrown value, with the messages of its causes: one line for a person. */
export function messageOf(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  for (let depth = 0; current !== undefined && current !== null && depth < 8; depth++) {
    if (current instanceof AggregateError && current.message === "") {
      parts.push(current.errors.map(messageOf).join("; "));
    } else {
      parts.push(current instanceof Error ? current.message : String(current));
    }
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.filter((part, at) => part !== "" && part !== parts[at - 1]).join(": ");
}
