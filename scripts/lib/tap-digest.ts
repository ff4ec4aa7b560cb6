/**
 * A TAP stream of test files, for a terminal: one line per file that passes, everything but the passed points of a
 * file that doesn't.
 */
export function tapDigest(print: (line: string) => void) {
  let block: string[] = [];
  let tail = "";
  // The diagnostics of a failed file come after its line.
  let inDiagnostics = false;

  function line(text: string): void {
    const top = /^(not ok|ok) \d+ - (.*?)(?: # time=(.*))?$/.exec(text);
    if (top !== null) {
      const [, verdict, file, time] = top;
      if (verdict === "ok") print(`  ok      ${file}${time === undefined ? "" : ` (${time})`}`);
      else {
        print(`  FAILED  ${file}`);
        for (const each of block) if (!/^\s*ok \d+/.test(each) && each.trim() !== "") print(`    ${each}`);
      }
      inDiagnostics = verdict === "not ok";
      block = [];
    } else if (/^# (Subtest|No coverage|\{ total|time=)/.test(text) || /^(TAP version|1\.\.)/.test(text)) {
      inDiagnostics = false;
    } else if (inDiagnostics) {
      if (text.trim() !== "") print(`    ${text}`);
    } else {
      block.push(text);
    }
  }

  return {
    write(chunk: string): void {
      const lines = (tail + chunk).split("\n");
      tail = lines.pop() ?? "";
      for (const each of lines) line(each);
    },
    /** The end of the stream: what no file's line has followed is shown, it may tell why. */
    end(): void {
      if (tail !== "") line(tail);
      for (const each of block) if (each.trim() !== "") print(`    ${each}`);
      block = [];
      tail = "";
    },
  };
}
