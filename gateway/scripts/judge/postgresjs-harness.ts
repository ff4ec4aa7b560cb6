/** What postgres.js's tests are given in the place of their own harness: all tests run, one after the other. */
import { appendFileSync } from "node:fs";
import { inspect } from "node:util";

type Test = () => Promise<readonly [unknown, unknown]>;
type Options = { readonly timeout?: number };

const file = process.env["JUDGE_RESULTS"] ?? "";
const mostMs = 5_000;
/** The machine may be busy. */
const patience = 6;
const tests: { readonly name: string; readonly mostMs: number; readonly run: Test }[] = [];

function add(name: string, options: Options | Test, run?: Test): void {
  const test = typeof options === "function" ? options : run;
  if (test === undefined) return;
  const seconds = typeof options === "function" ? undefined : options.timeout;
  tests.push({ name, mostMs: patience * (seconds === undefined ? mostMs : seconds * 1000), run: test });
}

export const t = Object.assign(add, { timeout: mostMs / 1000 });
export const ot = add;
export function nt(): void {}

async function judge(test: (typeof tests)[number]): Promise<readonly [string, string]> {
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("timed out")), test.mostMs);
    });
    const [expected, got] = await Promise.all(await Promise.race([test.run(), late]));
    return expected === got ? ["ok", ""] : ["failed", `${inspect(expected)} is not ${inspect(got)}`];
  } catch (error) {
    return ["failed", inspect(error).slice(0, 1_000)];
  } finally {
    clearTimeout(timer);
  }
}

setImmediate(async () => {
  const seen = new Map<string, number>();
  appendFileSync(file, `${tests.length}\n`);
  for (const each of tests) {
    const count = (seen.get(each.name) ?? 0) + 1;
    seen.set(each.name, count);
    const [outcome, detail] = await judge(each);
    const name = count === 1 ? each.name : `${each.name} (${count})`;
    appendFileSync(file, `${JSON.stringify([name, outcome, detail])}\n`);
  }
  process.exit(0);
});
