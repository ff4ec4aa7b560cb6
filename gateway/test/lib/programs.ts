/**
 * Random programs of several clients, run on direct connections and through the gateway with fewer server connections
 * than clients: every answer must be the same, message by message.
 */
import { poll } from "@quorate/common";
import type pg from "pg";
import type { Server } from "../../src/pool/server.ts";
import type { TestGateway } from "./gateway.ts";
import { type Random, randomFrom } from "./random.ts";
import { type Address, RawClient, readable, wire } from "./raw-client.ts";

export type Programs = {
  readonly direct: Address;
  readonly pooled: Address;
  readonly clientCount: number;
  readonly stepsPerProgram: number;
  readonly startups: readonly Record<string, string>[];
  /** Sent as simple queries … */
  readonly statements: readonly string[];
  /** … and with the extended protocol; $1 is an integer, or not. */
  readonly prepared: readonly string[];
  /** Resolves when only so many sessions are left on both ways: clients leave in whatever state they are. */
  settled(left: number): Promise<void>;
  /** Runs after each step. */
  between?(random: Random): void;
};

/** `admin`: a connection to the server, to another database than theirs. */
export async function onlyLeft(gateway: TestGateway, admin: pg.Client, left: number): Promise<void> {
  const text =
    "select count(*)::int as n from pg_stat_activity where datname = 'direct' and backend_type = 'client backend'";
  await poll(
    async () => gateway.worker.clients.size === left && (await admin.query(text)).rows[0].n === left,
    {
      what: "those who have left to be gone",
      timeoutMs: 20_000,
    },
  );
}

/** Whoever comes next gets any idle connection, not the one that he had: what has to follow him is put to the test. */
export function scatter(gateway: TestGateway, random: Random): void {
  for (const { idle } of gateway.worker.pools.values()) {
    for (const server of idle) server.lastHolder = undefined;
    for (let at = idle.length - 1; at > 0; at--) {
      const other = random.below(at + 1);
      [idle[at], idle[other]] = [idle[other] as Server, idle[at] as Server];
    }
  }
}

/** The messages of one step, and how many ReadyForQuery it brings. */
type Step = { readonly text: string; readonly messages: readonly Buffer[]; readonly ready: number };

function simple(sql: string): Step {
  return { text: sql, messages: [wire.query(sql)], ready: 1 };
}

function extended(random: Random, prepared: readonly string[]): Step {
  const messages: Buffer[] = [];
  const text: string[] = [];
  const add = (what: string, bytes: Buffer) => {
    text.push(what);
    messages.push(bytes);
  };
  let ready = 0;
  const parts = 1 + random.below(4);
  for (let part = 0; part < parts; part++) {
    const name = random.pick(["", "", "s1", "s2"]);
    const sql = random.pick(prepared);
    const values = random.chance(0.9) && sql.includes("$1") ? [random.pick(["1", "2", "3", "x"])] : [];
    switch (random.below(8)) {
      case 0:
        add(`parse ${name}: ${sql}`, wire.parse(name, sql));
        break;
      case 1:
        add(`bind ${name}`, wire.bind("", name, values));
        add("execute", wire.execute(""));
        break;
      case 2:
        add(`close ${name}`, wire.closeStatement(name));
        break;
      case 3:
        add(`describe ${name}`, wire.describe("S", name));
        break;
      case 4:
        add(`parse ${name}: ${sql}`, wire.parse(name, sql));
        add(`bind ${name} to q`, wire.bind("q", name, values));
        add("execute q, 2 rows", wire.execute("q", 2));
        add("execute q", wire.execute("q"));
        add("close q", wire.closePortal("q"));
        break;
      default:
        add(`parse ${name}: ${sql}`, wire.parse(name, sql));
        add("describe", wire.describe("S", name));
        add(`bind ${name} ${values}`, wire.bind("", name, values));
        add("describe portal", wire.describe("P", ""));
        add("execute", wire.execute(""));
    }
    if (random.chance(0.3)) {
      add("sync", wire.sync());
      ready++;
    }
  }
  add("sync", wire.sync());
  return { text: text.join(", "), messages, ready: ready + 1 };
}

/** A Describe that fails may or may not have told the parameters before. */
function comparable(lines: readonly string[]): string[] {
  return lines.filter((line, at) => !(line.startsWith("t ") && lines[at + 1]?.startsWith("E ")));
}

/**
 * In a failed transaction nothing can be prepared: a statement that the server connection hasn't got is refused for
 * that, before anybody looks at its parameters (docs/gateway-differences.md).
 */
const same = (wanted: string | undefined, got: string | undefined): boolean =>
  wanted === got ||
  (wanted !== undefined &&
    /^E .*C08P01\|Mbind message supplies/.test(wanted) &&
    /^E .*C25P02/.test(got ?? ""));

/** What differs first, or undefined. */
export async function runProgram(programs: Programs, seed: number): Promise<string | undefined> {
  const { clientCount, stepsPerProgram, startups, statements, prepared } = programs;
  const random = randomFrom(seed);
  const enter = async (at: number) => {
    const parameters = { user: "postgres", ...startups[at % startups.length] };
    return {
      direct: await RawClient.login(programs.direct, { ...parameters, database: "direct" }),
      pooled: await RawClient.login(programs.pooled, { ...parameters, database: "pooled" }),
    };
  };
  await programs.settled(0);
  const pairs = await Promise.all(Array.from({ length: clientCount }, (_, at) => enter(at)));
  const history: string[] = [];
  const chance = randomFrom(seed + 1);
  try {
    for (let step = 0; step < stepsPerProgram; step++) {
      const who = random.below(clientCount);
      const { direct, pooled } = pairs[who] as (typeof pairs)[number];
      if (random.chance(0.03)) {
        history.push(`${who}: leaves, and comes again`);
        direct.close();
        pooled.close();
        await programs.settled(clientCount - 1);
        pairs[who] = await enter(who);
        continue;
      }
      const { text, messages, ready } = random.chance(0.7)
        ? simple(random.pick(statements))
        : extended(random, prepared);
      history.push(`${who}: ${text}`);
      direct.send(...messages);
      const wanted = comparable(readable(await direct.until(ready)));
      pooled.send(...messages);
      const got = comparable(readable(await pooled.until(ready)));
      programs.between?.(chance);
      const differs = wanted.findIndex((line, at) => !same(line, got[at]));
      if (differs >= 0 || got.length !== wanted.length) {
        const at = differs < 0 ? wanted.length : differs;
        // There, too, the one is described and the other refused; from here on the two sessions go separate ways.
        if (wanted[at]?.startsWith("t ") && /^E .*C25P02/.test(got[at] ?? "")) return undefined;
        return `seed ${seed}, step ${step}\n${history.join("\n")}\n  direct: ${wanted[at]}\n  gateway: ${got[at]}`;
      }
    }
  } catch (error) {
    return `seed ${seed}: ${error}\n${history.join("\n")}`;
  } finally {
    for (const { direct, pooled } of pairs) {
      direct.close();
      pooled.close();
    }
  }
  return undefined;
}
