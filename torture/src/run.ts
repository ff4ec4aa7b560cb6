// One cluster, many faults: strikes, waits, heals, waits, judges.
import { loadavg } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { poll } from "@quorate/common";
import { parseLsn } from "@quorate/consensus/types.ts";
import type { ClusterPicture } from "@quorate/orchestrator/view.ts";
import { amcheck, contentsOf, withClient } from "../../tests/lib/contents.ts";
import { LabCluster, type LabOptions } from "../../tests/lib/lab-cluster.ts";
import type { Teardown } from "../../tests/lib/told.ts";
import { type Claim, type Final, judge, longestGapMs } from "./checkers.ts";
import { type Fault, type Heal, schedule } from "./faults.ts";
import { Random } from "./random.ts";
import { expectedSum, schema, Workload } from "./workload.ts";

export interface TortureOptions extends LabOptions {
  readonly seed: number;
  readonly count: number;
  readonly faults: readonly Fault[];
  readonly say: (line: string) => void;
  /** How long a fault lasts after the clients have got over it. */
  readonly holdMs?: readonly [number, number];
  /** Tell what all components said when a gap was longer than its aim. */
  readonly stories?: boolean;
}

export interface Strike {
  readonly fault: string;
  readonly aimMs: number | null;
  readonly gapMs: number;
  /** From the healing until the cluster was whole. */
  readonly wholeMs: number;
  /** Of the machine in the minute before, by its own account: what else it did. */
  readonly load?: number;
}

export interface Result {
  readonly strikes: readonly Strike[];
  readonly acknowledged: number;
  readonly reads: number;
  readonly lost: readonly string[];
  readonly seenThenLost: readonly string[];
  readonly other: readonly string[];
}

/** With a quorum connected, clients must be able to write again within this time. */
const writableTimeoutMs = 30_000;
const wholeTimeoutMs = 90_000;
const calmMs = 400;
const notJudged = "broken off: what is lost or was seen and then lost was not looked at";
const fewAcks = 5;

export async function torture(test: Teardown, options: TortureOptions): Promise<Result> {
  const random = new Random(options.seed);
  const lab = await LabCluster.start(test, options);
  const run = new TortureRun(lab, options, random);
  test.teardown(() => run.end());
  await run.prepare();
  for (const fault of schedule(random, options.faults, options.count)) {
    await run.strike(fault);
    if (run.broken) break;
  }
  return run.judge();
}

export class TortureRun {
  readonly #lab: LabCluster;
  readonly #options: TortureOptions;
  readonly #random: Random;
  /** What the clients do and were told. */
  readonly workload: Workload;
  readonly #strikes: Strike[] = [];
  readonly #claims: Claim[] = [];
  readonly #problems: string[] = [];
  #picture: ClusterPicture | undefined;
  #unfollow: () => void = () => undefined;
  #ended = false;

  constructor(lab: LabCluster, options: TortureOptions, random: Random) {
    this.#lab = lab;
    this.#options = options;
    this.#random = random;
    const nodes = new Map(lab.ids.map((id) => [id, lab.url(id)]));
    this.workload = new Workload({ nodes, leader: () => this.#picture?.leader ?? null }, random);
  }

  /** It makes no sense to go on. */
  get broken(): boolean {
    return this.#problems.length > 0;
  }

  async prepare(): Promise<void> {
    const leader = await this.#lab.leader();
    await withClient(this.#lab.superuser(leader), (client) =>
      client.query("create extension if not exists amcheck"),
    );
    await withClient(this.#lab.url(leader), async (client) => {
      for (const statement of schema) await client.query(statement);
    });
    this.#unfollow = this.#lab.follow((picture) => this.#seen(picture));
    this.workload.start();
    if (!(await this.workload.acknowledges(fewAcks, writableTimeoutMs)))
      throw new Error("the load never began");
  }

  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.workload.stop();
    this.#unfollow();
  }

  #seen(picture: ClusterPicture): void {
    this.#picture = picture;
    for (const { id, state, term } of picture.nodes)
      if (state === "leader" && term !== null) this.#claims.push({ node: id, term });
    this.workload.leaderChanged(picture.leader);
  }

  async strike(fault: Fault): Promise<void> {
    const number = this.#strikes.length + 1;
    const leader = await this.#lab.leader();
    const followers = this.#random.shuffle(this.#lab.ids.filter((id) => id !== leader));
    // Drawn here, so that what follows doesn't depend on what happened.
    const [least, most] = this.#options.holdMs ?? [300, 2_500];
    const holdMs = this.#random.int(least, most);
    const fromMs = performance.now();
    const at = new Date().toISOString().slice(11, 23);
    const situation = { lab: this.#lab, random: this.#random, leader, followers };
    const heal: Heal = await fault.strike(situation);
    if (fault.survivable && !(await this.workload.acknowledges(fewAcks, writableTimeoutMs)))
      await this.#problem(`${number}. ${fault.name} (${leader}): no write for ${writableTimeoutMs} ms`);
    await delay(holdMs);
    await heal();
    const healedMs = performance.now();
    if (!(await this.workload.acknowledges(fewAcks, writableTimeoutMs)))
      await this.#problem(`${number}. ${fault.name} (${leader}): no write after it was over`);
    await this.#lab
      .waitUntilWhole(wholeTimeoutMs)
      .catch((error: unknown) => this.#problem(`${number}. ${fault.name} (${leader}): ${String(error)}`));
    const wholeMs = Math.round(performance.now() - healedMs);
    const gapMs = Math.round(longestGapMs(this.workload.ackTimesMs, fromMs, performance.now()));
    const load = Math.round((loadavg()[0] ?? 0) * 10) / 10;
    this.#strikes.push({ fault: fault.name, aimMs: fault.aimMs, gapMs, wholeMs, load });
    const note = fault.aimMs !== null && gapMs > fault.aimMs ? ` (aim ${fault.aimMs})` : "";
    this.#options.say(
      `${at} ${number}. ${fault.name}: ${leader} → ${this.#picture?.leader}, gap ${gapMs} ms${note}, whole after ${wholeMs} ms`,
    );
    if (note !== "" && this.#options.stories === true) this.#options.say(await this.#lab.story(120));
    await delay(calmMs);
  }

  async #problem(text: string): Promise<void> {
    this.#problems.push(text);
    this.#options.say(`${text}\n${await this.#lab.story()}`);
  }

  /** Of what these nodes hold; without names, of all. */
  async judge(ids: readonly string[] = this.#lab.ids): Promise<Result> {
    await this.end();
    for (const id of this.#lab.ids) this.#claims.push(...loggedClaims(id, this.#lab.sidecarLog(id)));
    const history = {
      appends: this.workload.appends,
      reads: this.workload.listReads,
      sums: this.workload.sums,
      claims: this.#claims,
    };
    const finals = this.broken ? [] : await this.#finals(ids);
    const verdict = this.broken
      ? { lost: [], seenThenLost: [], other: [] }
      : judge(history, finals, expectedSum);
    return {
      strikes: this.#strikes,
      acknowledged: this.workload.ackTimesMs.length,
      reads: this.workload.reads,
      ...verdict,
      other: [
        ...this.#problems,
        ...(this.broken ? [notJudged] : []),
        ...verdict.other,
        ...(this.broken ? [] : await this.#damage(ids)),
      ],
    };
  }

  async #finals(ids: readonly string[]): Promise<Final[]> {
    await this.#equalPositions(ids);
    return Promise.all(
      ids.map((node) =>
        withClient(this.#lab.superuser(node), async (client) => {
          const { rows } = await client.query<{ id: number; items: number[] }>("select id, items from lists");
          return { node, lists: new Map(rows.map(({ id, items }) => [id, items])) };
        }),
      ),
    );
  }

  async #equalPositions(ids: readonly string[]): Promise<void> {
    const leader = await this.#lab.leader();
    const target = await withClient(this.#lab.superuser(leader), async (client) => {
      const { rows } = await client.query<{ lsn: string }>("select pg_current_wal_insert_lsn()::text as lsn");
      return parseLsn(rows[0]?.lsn ?? "") ?? 0n;
    });
    await poll(
      async () =>
        (await this.#lab.picture()).nodes.every(
          ({ id, appliedLsn }) =>
            !ids.includes(id) || id === leader || (parseLsn(appliedLsn ?? "") ?? 0n) >= target,
        ),
      { what: "all nodes to apply the leader's log", timeoutMs: 60_000 },
    );
  }

  async #damage(ids: readonly string[]): Promise<string[]> {
    const found: string[] = [];
    const contents = new Map<string, string>();
    for (const id of ids) {
      found.push(...(await amcheck(this.#lab.superuser(id))).map((problem) => `${id}: ${problem}`));
      contents.set(id, JSON.stringify(await contentsOf(this.#lab.superuser(id))));
    }
    if (new Set(contents.values()).size > 1)
      found.push(`the contents differ: ${[...contents].map(([id, text]) => `${id} ${text}`).join("; ")}`);
    return found;
  }
}

/** Also of leaders that nobody outside could see. */
export function loggedClaims(node: string, log: string): Claim[] {
  return log
    .split("\n")
    .filter((line) => line.startsWith("{") && line.includes('"Postgres\'s state"'))
    .map((line) => JSON.parse(line) as { state?: string; term?: number })
    .flatMap(({ state, term }) => (state === "leader" && term !== undefined ? [{ node, term }] : []));
}
