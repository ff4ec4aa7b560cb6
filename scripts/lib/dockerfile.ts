/** Reads the part of the Dockerfile language that Dockerfile.postgres uses. Anything else is refused, not skipped. */

export type Instruction =
  | { readonly kind: "env"; readonly values: Readonly<Record<string, string>> }
  | { readonly kind: "run"; readonly script: string }
  | {
      readonly kind: "copy";
      readonly from: string | undefined;
      readonly source: string;
      readonly target: string;
    }
  | { readonly kind: "workdir"; readonly directory: string }
  | { readonly kind: "user"; readonly name: string }
  | { readonly kind: "entrypoint"; readonly command: readonly string[] }
  | { readonly kind: "cmd"; readonly command: readonly string[] };

export type Stage = {
  readonly name: string | undefined;
  readonly image: string;
  readonly instructions: readonly Instruction[];
};

/** Joins continued lines and drops comments. */
function logicalLines(text: string): string[] {
  const lines: string[] = [];
  let open = "";
  for (const line of text.split("\n")) {
    if (/^\s*(#|$)/.test(line)) continue;
    if (line.endsWith("\\")) open += `${line.slice(0, -1)} `;
    else {
      lines.push(open + line);
      open = "";
    }
  }
  return lines;
}

function parseInstruction(word: string, rest: string): Instruction | undefined {
  switch (word) {
    case "ENV":
      return {
        kind: "env",
        values: Object.fromEntries([...rest.matchAll(/(\w+)=(\S+)/g)].map((m) => [m[1] ?? "", m[2] ?? ""])),
      };
    case "RUN":
      return { kind: "run", script: rest };
    case "COPY": {
      const match = /^(?:--from=(\S+)\s+)?(\S+)\s+(\S+)$/.exec(rest);
      if (match === null) throw new Error(`unknown form: COPY ${rest}`);
      return { kind: "copy", from: match[1], source: match[2] ?? "", target: match[3] ?? "" };
    }
    case "WORKDIR":
      return { kind: "workdir", directory: rest };
    case "USER":
      return { kind: "user", name: rest };
    case "ENTRYPOINT":
      return { kind: "entrypoint", command: JSON.parse(rest) };
    case "CMD":
      return { kind: "cmd", command: JSON.parse(rest) };
    case "VOLUME":
    case "STOPSIGNAL":
    case "EXPOSE":
      return undefined; // for the engine only
    default:
      throw new Error(`unknown instruction: ${word} ${rest}`);
  }
}

export function parseDockerfile(text: string): Stage[] {
  const stages: { name: string | undefined; image: string; instructions: Instruction[] }[] = [];
  for (const line of logicalLines(text)) {
    const [word = "", rest = ""] = /^(\S+)\s+(.*)$/.exec(line)?.slice(1) ?? [];
    if (word === "FROM") {
      const match = /^(\S+)(?:\s+AS\s+(\S+))?$/i.exec(rest.trim());
      if (match === null) throw new Error(`unknown form: ${line}`);
      stages.push({ name: match[2], image: match[1] ?? "", instructions: [] });
      continue;
    }
    const stage = stages.at(-1);
    if (stage === undefined) throw new Error(`before the first FROM: ${line}`);
    const instruction = parseInstruction(word, rest.trim());
    if (instruction !== undefined) stage.instructions.push(instruction);
  }
  return stages;
}

/** `$NAME` and `${NAME}` in the value of an ENV. */
export function expand(text: string, env: Readonly<Record<string, string>>): string {
  return text.replace(/\$(?:\{(\w+)\}|(\w+))/g, (_, braced, plain) => env[braced ?? plain] ?? "");
}
