// quorate logs [ID]: without an ID the story of the whole cluster, merged by time.
import { closeSync, existsSync, fstatSync, openSync, readSync, watch } from "node:fs";
import { type OpenCluster, openCluster, paths } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import {
  formatStoryLine,
  mergeStories,
  readComponentLine,
  readPostgresLine,
  type StoryLine,
} from "./story.ts";

export interface LogOptions {
  readonly lines?: number;
  readonly follow?: boolean;
  readonly postgres?: boolean;
  /** A line of JSON each. */
  readonly json?: boolean;
}

interface LogSource {
  readonly source: string;
  readonly file: string;
  readonly read: (source: string, line: string, previousMs: number) => StoryLine;
}

const maxTailBytes = 4 << 20;

function sourcesOf(cluster: OpenCluster, id: string | undefined, options: LogOptions): LogSource[] {
  const { dir, file } = cluster;
  const node = (nodeId: string, postgres: boolean): LogSource[] => [
    { source: nodeId, file: paths.sidecarLog(dir, nodeId), read: readComponentLine },
    ...(postgres
      ? [{ source: `${nodeId}/pg`, file: paths.postgresLog(dir, nodeId), read: readPostgresLine }]
      : []),
  ];
  const orchestrator = (orchestratorId: string): LogSource => ({
    source: orchestratorId,
    file: paths.orchestratorLog(dir, orchestratorId),
    read: readComponentLine,
  });
  if (id === undefined) {
    return [
      { source: "supervisor", file: paths.supervisorLog(dir), read: readComponentLine },
      ...file.orchestrators.map((each) => orchestrator(each.id)),
      ...file.nodes.flatMap((each) => node(each.id, options.postgres === true)),
    ];
  }
  if (file.nodes.some((each) => each.id === id)) return node(id, options.postgres !== false);
  if (file.orchestrators.some((each) => each.id === id)) return [orchestrator(id)];
  const known = [...file.nodes, ...file.orchestrators].map((each) => each.id).join(", ");
  throw orchestratorErrors.error("unknown_node", `there are no logs of "${id}": choose one of ${known}`);
}

class Tail {
  readonly source: LogSource;
  #offset = 0;
  #rest = "";
  #lastMs = 0;

  constructor(source: LogSource) {
    this.source = source;
  }

  /** Complete lines since the last call; the first call starts at most 4 MiB before the end. */
  next(): StoryLine[] {
    if (!existsSync(this.source.file)) return [];
    const handle = openSync(this.source.file, "r");
    try {
      const { size } = fstatSync(handle);
      if (size < this.#offset) this.#offset = 0;
      if (this.#offset === 0) this.#offset = Math.max(0, size - maxTailBytes);
      const buffer = Buffer.alloc(size - this.#offset);
      this.#offset += readSync(handle, buffer, 0, buffer.length, this.#offset);
      const lines = (this.#rest + buffer.toString("utf8")).split("\n");
      this.#rest = lines.pop() ?? "";
      return lines.map((line) => {
        const story = this.source.read(this.source.source, line, this.#lastMs);
        this.#lastMs = story.timeMs;
        return story;
      });
    } finally {
      closeSync(handle);
    }
  }
}

export async function logs(dir: string, id: string | undefined, options: LogOptions): Promise<void> {
  const tails = sourcesOf(openCluster(dir), id, options).map((source) => new Tail(source));
  const story = mergeStories(tails.map((tail) => tail.next()));
  const format = options.json === true ? lineForPrograms : formatStoryLine;
  for (const line of story.slice(-(options.lines ?? 100))) console.log(format(line));
  if (options.follow === true) await followUntilSignal(tails, format);
}

function lineForPrograms({ timeMs, source, text }: StoryLine): string {
  return JSON.stringify({ at: new Date(timeMs).toISOString(), source, text });
}

async function followUntilSignal(tails: readonly Tail[], format: (line: StoryLine) => string): Promise<void> {
  const print = (): void => {
    for (const line of mergeStories(tails.map((tail) => tail.next()))) console.log(format(line));
  };
  const watchers = tails
    .filter((tail) => existsSync(tail.source.file))
    .map((tail) => watch(tail.source.file, print));
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => resolve());
  });
  for (const watcher of watchers) watcher.close();
}
