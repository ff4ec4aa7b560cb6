/** pgbench in all its modes, with fixed seeds: the tables must be the same in the end. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { type Suite, type Target, withTarget } from "./context.ts";
import type { TestResult } from "./verdict.ts";

const transfer = `\\set from random(1, 1000)
\\set to random(1, 1000)
\\set delta random(-5000, 5000)
`;

/** Scripts of our own; each leaves something behind that depends on all of its steps. */
const scripts: Readonly<Record<string, string>> = {
  "pipeline.sql": `${transfer}\\startpipeline
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :from;
update pgbench_accounts set abalance = abalance - :delta where aid = :to;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :to, :delta, now());
end;
\\endpipeline
`,
  "syncpipeline.sql": `${transfer}\\startpipeline
update pgbench_accounts set abalance = abalance + :delta where aid = :from;
\\syncpipeline
update pgbench_accounts set abalance = abalance - :delta where aid = :to;
\\endpipeline
`,
  "gset.sql": `${transfer}begin;
select abalance as before from pgbench_accounts where aid = :from for update \\gset
update pgbench_accounts set abalance = :before::int + :delta where aid = :from;
update pgbench_tellers set tbalance = tbalance + :before::int % 7 where tid = 1;
end;
select 2 as two \\gset my_
insert into pgbench_history (tid, bid, aid, delta, mtime) values (:my_two, 1, :from, :delta, now());
`,
  // Several statements in one query: simple mode only.
  "aset.sql": `${transfer}select 3 as three \\; select 4 as four \\aset
insert into pgbench_history (tid, bid, aid, delta, mtime) values (:three, :four, :from, :delta, now());
`,
  "sleep.sql": `${transfer}begin;
update pgbench_branches set bbalance = bbalance + :delta where bid = 1;
\\sleep 2 ms
update pgbench_tellers set tbalance = tbalance + :delta where tid = 1;
end;
`,
  "temp.sql": `${transfer}create temp table if not exists noted (aid int, delta int);
insert into noted values (:from, :delta);
update pgbench_accounts set abalance = abalance + (select count(*) from noted) where aid = :from;
`,
};

type Run = { readonly name: string; readonly args: readonly string[]; readonly script?: string };

/** One thread for each client: pgbench prepares with blocking calls, which stop all clients of a thread. */
const clients = (count: number): string[] => ["-c", String(count), "-j", String(count)];

function runs(): Run[] {
  const all: Run[] = [];
  for (const mode of ["simple", "extended", "prepared"]) {
    const of = ["-M", mode];
    all.push({ name: `tpcb, ${mode}`, args: [...of, ...clients(8), "-t", "60"] });
    all.push({ name: `tpcb, ${mode}, -C`, args: [...of, "-C", ...clients(4), "-t", "15"] });
    all.push({
      name: `simple-update, ${mode}`,
      args: [...of, "-b", "simple-update", ...clients(4), "-t", "60"],
    });
    all.push({ name: `select-only, ${mode}`, args: [...of, "-S", ...clients(8), "-t", "100"] });
    for (const script of Object.keys(scripts)) {
      if (mode === "simple" ? script.includes("pipeline") : script === "aset.sql") continue; // pgbench refuses that
      // What `gset` reads depends on the order of transactions: one client, so that there is one order.
      const count = script === "gset.sql" ? 1 : 6;
      all.push({ name: `${script}, ${mode}`, args: [...of, ...clients(count), "-t", "40"], script });
    }
  }
  return all;
}

const stateSql = `select md5(
  (select string_agg(aid || ':' || abalance, ',' order by aid) from pgbench_accounts) ||
  (select string_agg(tid || ':' || tbalance, ',' order by tid) from pgbench_tellers) ||
  (select string_agg(bid || ':' || bbalance, ',' order by bid) from pgbench_branches) ||
  coalesce((select string_agg(tid || ':' || bid || ':' || aid || ':' || delta, ',' order by tid, bid, aid, delta)
            from pgbench_history), ''))`;

/** The outcome's detail is the state of the tables, so that "ok" alone is not what is compared. */
async function one(target: Target, directory: string, { args, script }: Run): Promise<string> {
  const { postgres, port } = target;
  const program = path.join(postgres.build.bin, "pgbench");
  const to = ["-h", "127.0.0.1", "-p", String(port), "-U", "postgres", "postgres"];
  await run(program, ["-i", "-q", "-s", "1", "-I", "dtGvp", ...to], { timeoutMs: 120_000 });
  const file = script === undefined ? [] : ["-f", path.join(directory, script)];
  const { stdout, stderr } = await run(program, ["-n", "--random-seed=7", ...args, ...file, ...to], {
    timeoutMs: 120_000,
  });
  const failed = /number of failed transactions: (\d+)/.exec(stdout)?.[1];
  if (failed !== "0") throw new Error(`${failed} failed transactions: ${stderr}`);
  return postgres.sql(stateSql);
}

const states = { direct: new Map<string, string>(), through: new Map<string, string>() };

export const pgbench: Suite = {
  title: "pgbench in all modes",
  known: [],
  run: (way, tests) =>
    withTarget(
      way,
      {},
      async (target) => {
        const directory = await mkdtemp(path.join(tmpdir(), "gateway-pgbench-"));
        try {
          for (const [name, text] of Object.entries(scripts))
            await writeFile(path.join(directory, name), text);
          const results = new Map<string, TestResult>();
          for (const each of runs()) {
            if (tests.length > 0 && !tests.some((test) => each.name.includes(test))) continue;
            results.set(each.name, await judged(target, directory, each));
          }
          return results;
        } finally {
          await rm(directory, { recursive: true, force: true });
        }
      },
      { poolSize: 3 }, // fewer connections than clients
    ),
};

async function judged(target: Target, directory: string, each: Run): Promise<TestResult> {
  try {
    const state = await one(target, directory, each);
    states[target.way].set(each.name, state);
    const wanted = states.direct.get(each.name);
    if (wanted === undefined || wanted === state) return { outcome: "ok" };
    return {
      outcome: "failed",
      detail: `the tables differ: ${wanted} directly, ${state} through the gateway`,
    };
  } catch (error) {
    return { outcome: "failed", detail: messageOf(error).slice(-500) };
  }
}
