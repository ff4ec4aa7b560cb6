// Do secrets stay where they belong? Looks at the arguments of all processes while a cluster works, and at its logs.
import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";

const lookIntervalMs = 25;

/** Name of the file → secret. */
export function readSecrets(dir: string): Map<string, string> {
  const directory = path.join(dir, "secrets");
  return new Map(
    readdirSync(directory).map((name) => [name, readFileSync(path.join(directory, name), "utf8").trim()]),
  );
}

/** Every process of the machine, again and again, until `end` tells what was found. */
export function watchArguments(secrets: ReadonlyMap<string, string>): { readonly end: () => string[] } {
  const found = new Set<string>();
  const look = (): void => {
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      let line = "";
      try {
        line = readFileSync(`/proc/${pid}/cmdline`, "utf8");
      } catch {
        continue; // ended meanwhile
      }
      for (const [name, secret] of secrets)
        if (line.includes(secret))
          found.add(`${name} in: ${line.replaceAll("\0", " ").replaceAll(secret, "…")}`);
    }
  };
  const timer = setInterval(look, lookIntervalMs);
  return {
    end() {
      clearInterval(timer);
      return [...found];
    },
  };
}

const logName = /\.(log|jsonl)(\.\d+)?$/;

export function secretsInLogs(dir: string, secrets: ReadonlyMap<string, string>): string[] {
  return readdirSync(dir, { recursive: true, encoding: "utf8" })
    .filter((name) => logName.test(name) && statSync(path.join(dir, name)).isFile())
    .flatMap((name) => {
      const text = readFileSync(path.join(dir, name), "utf8");
      return [...secrets]
        .filter(([, secret]) => text.includes(secret))
        .map(([secret]) => `${secret} in ${name}`);
    });
}
