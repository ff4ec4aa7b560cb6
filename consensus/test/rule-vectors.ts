// Reads testdata/rules.txt, which the C evaluator runs too, and writes its generated part: `npm run vectors`.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import {
  formatLsn,
  formatRule,
  type Lsn,
  lsn,
  type NodeId,
  nodeId,
  parseRule,
  type Rule,
} from "../src/index.ts";
import { dumbBlock, dumbCommit, dumbFulfil, groupsOf } from "./dumb-rule.ts";

export const vectorsPath = fileURLToPath(new URL("../testdata/rules.txt", import.meta.url));
const marker = "# generated from here on";

export interface Vector {
  readonly line: number;
  readonly verb: string;
  readonly subject: string;
  readonly argument: string;
  readonly expected: string;
}

export function readVectors(): Vector[] {
  const vectors: Vector[] = [];
  for (const [index, raw] of readFileSync(vectorsPath, "utf8").split("\n").entries()) {
    if (raw === "" || raw.startsWith("#")) {
      continue;
    }
    const arrow = raw.indexOf(" => ");
    const [verb = "", subject = "", argument = ""] = raw.slice(0, arrow).split(" ");
    vectors.push({ line: index + 1, verb, subject, argument, expected: raw.slice(arrow + 4) });
  }
  return vectors;
}

/** mulberry32: the vectors must be the same on every machine. */
export function generator(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296) * below);
  };
}

export function randomRule(ids: readonly string[], depth: number, below: (n: number) => number): Rule {
  if (depth <= 1 || below(3) === 0) {
    return { kind: "node", id: nodeId(ids[below(ids.length)] ?? "n1") };
  }
  const rules = Array.from({ length: 1 + below(4) }, () => randomRule(ids, depth - 1, below));
  return { kind: "atLeast", k: 1 + below(rules.length), rules };
}

const lsns = [
  "0/0",
  "0/1",
  "0/16B3740",
  "0/FFFFFFFF",
  "1/0",
  "1/FFFFFFFF",
  "7FFFFFFF/FFFFFFFF",
  "80000000/0",
  "FFFFFFFF/FFFFFFFF",
];

function parseKnown(text: string): Lsn {
  const [high = "0", low = "0"] = text.split("/");
  return lsn((BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`));
}

function generated(): string[] {
  const below = generator(20_251_120);
  const lines = [marker];
  for (let round = 0; round < 110; round += 1) {
    const ids = ["n1", "n2", "n3", "n4", "n5", "n6", "n7"].slice(0, 1 + below(7));
    const rule = randomRule(ids, 1 + below(4), below);
    const groups = groupsOf(rule);
    const flushed = new Map<NodeId, Lsn>();
    for (const id of ids) {
      if (below(4) > 0) {
        flushed.set(
          nodeId(id),
          below(3) === 0 ? parseKnown(lsns[below(lsns.length)] ?? "0/0") : lsn(below(6) * 256),
        );
      }
    }
    const some = ids.filter(() => below(2) === 0);
    const set = some.join(",") || "-";
    const text = formatRule(rule);
    const given = [...flushed].map(([id, value]) => `${id}=${formatLsn(value)}`).join(",") || "-";
    lines.push(`commit ${text} ${given} => ${formatLsn(lsn(dumbCommit(groups, flushed)))}`);
    lines.push(`fulfil ${text} ${set} => ${dumbFulfil(groups, new Set(some))}`);
    lines.push(`block ${text} ${set} => ${dumbBlock(groups, new Set(some))}`);
  }
  return lines;
}

export function generatedPart(): string {
  return `${generated().join("\n")}\n`;
}

export function committedGeneratedPart(): string {
  const text = readFileSync(vectorsPath, "utf8");
  return text.slice(text.indexOf(marker));
}

export function rewriteVectors(): void {
  const text = readFileSync(vectorsPath, "utf8");
  const end = text.indexOf(marker);
  writeFileSync(vectorsPath, (end < 0 ? text : text.slice(0, end)) + generatedPart());
}

export function parsed(text: string): Rule {
  const result = parseRule(text);
  if (!result.ok) {
    throw new Error(`${text}: ${result.message}`);
  }
  return result.rule;
}
