// What a verb says: to people line by line while it works; to programs (--json) one object when it is done, the lines
// on the error output meanwhile.

let forPrograms = false;
let lines: string[] = [];

/** Before a verb begins. */
export function speakTo(listener: "people" | "programs"): void {
  forPrograms = listener === "programs";
  lines = [];
}

export function say(line: string): void {
  lines.push(line);
  if (forPrograms) console.error(line);
  else console.log(line);
}

/** For programs only: people have read it in the lines. */
export function answer(result: object): void {
  if (forPrograms) console.log(JSON.stringify(result, undefined, 2));
}

/** Of a change that consists of steps: what was done and waited for. */
export function answerDone(): void {
  answer({ done: true, steps: lines.map((line) => line.trim()) });
}
