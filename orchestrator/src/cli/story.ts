// Pure: log lines of all components become one readable story, ordered by time.

export interface StoryLine {
  readonly timeMs: number;
  readonly source: string;
  readonly text: string;
}

const shownElsewhere = new Set([
  "time",
  "level",
  "msg",
  "component",
  "pid",
  "hostname",
  "node",
  "orchestrator",
]);

/** A pino line becomes `LEVEL message key=value …`; anything else (a stack, a crash) is kept as it is. */
export function readComponentLine(source: string, line: string, previousMs: number): StoryLine {
  const record = parseRecord(line);
  if (record === undefined) return { timeMs: previousMs, source, text: line };
  const { time, level, msg } = record;
  const timeMs = typeof time === "number" ? time : Date.parse(String(time));
  const fields = Object.entries(record)
    .filter(([key]) => !shownElsewhere.has(key))
    .map(([key, value]) => `${key}=${showValue(value)}`);
  const text = [String(level).toUpperCase().padEnd(5), String(msg ?? ""), ...fields].join(" ").trimEnd();
  return { timeMs: Number.isNaN(timeMs) ? previousMs : timeMs, source, text };
}

const postgresTime = /^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (UTC|GMT)\b ?/;

export function readPostgresLine(source: string, line: string, previousMs: number): StoryLine {
  const match = postgresTime.exec(line);
  if (match === null) return { timeMs: previousMs, source, text: line };
  const timeMs = Date.parse(`${match[1]?.replace(" ", "T")}Z`);
  return { timeMs, source, text: line.slice(match[0].length) };
}

function parseRecord(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function showValue(value: unknown): string {
  if (typeof value === "string") return /^[^\s"]+$/.test(value) ? value : JSON.stringify(value);
  if (typeof value !== "object" || value === null) return String(value);
  if ("stack" in value && typeof value.stack === "string") return `\n${value.stack}`;
  return JSON.stringify(value);
}

/** Stable: lines of one source keep their order. */
export function mergeStories(stories: readonly (readonly StoryLine[])[]): StoryLine[] {
  return stories.flat().sort((a, b) => a.timeMs - b.timeMs);
}

export function formatStoryLine({ timeMs, source, text }: StoryLine): string {
  const time = timeMs > 0 ? new Date(timeMs).toISOString().slice(11, 23) : "            ";
  return `${time} ${source.padEnd(11)} ${text}`;
}
