/**
 * One logger per process, child loggers with `{ node, term, ruleset }`.
 * INFO = a state changed, WARN = unexpected but continuing, ERROR = someone must look. Log once, where it's handled.
 */
import pino, { type Logger } from "pino";
import { redact, redactText } from "./redaction.ts";

export type { Logger } from "pino";

export type LoggerOptions = {
  /** The component: "sidecar", "orchestrator", "gateway". */
  readonly name: string;
  readonly level?: "trace" | "debug" | "info" | "warn" | "error" | "silent";
  /** JSON lines are appended to this file; without it they go to stdout. */
  readonly file?: string;
  /** Fields of every line. */
  readonly fields?: Readonly<Record<string, unknown>>;
};

const settings = {
  formatters: {
    level: (label: string) => ({ level: label }),
    log: redact,
    bindings: redact,
  },
  // The formatter above has made plain, clean fields of errors already.
  serializers: { err: (value: unknown) => value, error: (value: unknown) => value },
  timestamp: pino.stdTimeFunctions.isoTime,
  hooks: {
    logMethod(this: Logger, args: Parameters<pino.LogFn>, method: pino.LogFn) {
      const clean = args.map((each) => (typeof each === "string" ? redactText(each) : each));
      method.apply(this, clean as Parameters<pino.LogFn>);
    },
  },
};

/** Lines are written at once: the last words before a crash are the ones that matter. */
export function createLogger(options: LoggerOptions): Logger {
  const destination = pino.destination({
    sync: true,
    ...(options.file === undefined ? { dest: 1 } : { dest: options.file, mkdir: true, append: true }),
  });
  return createLoggerTo(destination, options);
}

/** The same to any writable, for tests. */
export function createLoggerTo(
  destination: pino.DestinationStream,
  options: Omit<LoggerOptions, "file">,
): Logger {
  const logger = pino(
    {
      ...settings,
      level: options.level ?? "info",
      base: { component: options.name, pid: process.pid, ...options.fields },
    },
    destination,
  );
  // pino doesn't format the fields of child loggers. Children inherit this one.
  const plainChild = logger.child;
  const child: typeof plainChild = function (this: Logger, fields, childOptions) {
    return plainChild.call(this, redact(fields), childOptions) as never;
  };
  return Object.assign(logger, { child });
}
