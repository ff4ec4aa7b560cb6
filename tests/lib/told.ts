// What a failed test tells: the end of its cluster's story first, since runners and CI show the beginning of what a
// failed test prints, then all of it.

/** What tap's and the benchmark's tests have in common. */
export interface Teardown {
  teardown(clean: () => Promise<void> | void): void;
  /** Tests of tap only. */
  passing?(): boolean;
  comment?(text: string): void;
}

const endLines = 15;
const longestLine = 300;
/** What every cluster says all the time. */
const ordinary =
  / (?:DEBUG|TRACE) |checkpoint (?:starting|complete)|received SIGHUP|connection (?:received|auth)/;

/** The last lines of a story that tell something. Pure. */
export function endOfStory(story: string, lines = endLines): string[] {
  return story
    .split("\n")
    .filter((line) => line.trim() !== "" && !ordinary.test(line))
    .map((line) => (line.length > longestLine ? `${line.slice(0, longestLine)} …` : line))
    .slice(-lines);
}

/** To be called before anything is stopped or removed. */
export async function tellIfFailed(test: Teardown, story: () => Promise<string>): Promise<void> {
  if (test.passing?.() !== false) return;
  const all = await story().catch((error: unknown) => `there is no story: ${String(error)}`);
  test.comment?.(["the end of the story:", ...endOfStory(all), "", "all of it:", all].join("\n"));
}
